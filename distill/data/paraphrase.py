"""Texts said in other words: a paraphrase is a function of texts, a seed and its own settings.

A member that learns from texts takes one by name (`paraphrase: {name: word_dropout, copies: 2}`) or by dotted path:
`f(texts, seed, **settings) -> texts`, as many as there were, empty ones empty.
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from distill.config import PROVIDED
from distill.errors import UserError
from distill.plugins import check_arguments, resolve

BETWEEN = "\n\n"  # ends a sentence for apertium, so that texts are translated one by one


def check_paraphrase(settings: Mapping[str, Any]) -> None:
    """Checks the settings of a paraphrase before anything heavy starts.

    Args:
        settings: `name`, `copies` (1 where left out), and the function's own.

    Raises:
        UserError: There is no such function, it has no such setting, or `copies` isn't 1 or more.
    """
    if not isinstance(settings.get("name"), str):
        raise UserError(f"'paraphrase' is {dict(settings)!r}, expected {{name: word_dropout, copies: 1, …}}.")
    copies = settings.get("copies", 1)
    if not isinstance(copies, int) or isinstance(copies, bool) or copies < 1:
        raise UserError(f"paraphrase '{settings['name']}': 'copies' is {copies!r}, expected 1 or more.")
    check_arguments("paraphrase", settings["name"], _own(settings), PROVIDED["paraphrase"])


def paraphrases(texts: Sequence[str], settings: Mapping[str, Any], seed: int) -> list[str]:
    """All texts in other words, `copies` times over: first every text once, then every text again.

    Raises:
        UserError: The function doesn't return one text for each text.
    """
    function = resolve("paraphrase", settings["name"])
    found: list[str] = []
    for copy in range(settings.get("copies", 1)):
        said = list(function(texts=list(texts), seed=seed + copy, **_own(settings)))
        if len(said) != len(texts):
            raise UserError(f"paraphrase '{settings['name']}' made {len(said):,} texts out of {len(texts):,}.")
        found += said
    return found


def _own(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if key not in ("name", "copies")}


def word_dropout(
    texts: Sequence[str], seed: int, share: float = 0.15, synonyms: str = "", replace: float = 0.3
) -> list[str]:
    """Leaves words out at random and, with a list of synonyms, puts others in the place of some.

    Args:
        texts: Any texts; one that would lose all its words keeps one.
        seed: Decides which words.
        share: Probability of each word to be left out.
        synonyms: A text file with a word, a tab and its synonyms, separated by commas, a line; "" for none.
        replace: Probability of a word that has synonyms to be replaced by one of them.

    References:
        Wei & Zou 2019, "EDA: Easy data augmentation techniques for boosting performance on text classification tasks",
        section 2 (random deletion, synonym replacement).

    Raises:
        UserError: A probability isn't from 0 to 1, or the file of synonyms isn't there or has another form.
    """
    for name, value in (("share", share), ("replace", replace)):
        if not 0 <= value <= 1:
            raise UserError(f"paraphrase 'word_dropout': '{name}' is {value}, expected a probability from 0 to 1.")
    rng = np.random.default_rng(seed)
    words = pl.DataFrame({"row": np.arange(len(texts)), "word": pl.Series(list(texts), dtype=pl.String)})
    words = words.with_columns(pl.col("word").str.extract_all(r"\S+")).explode("word").filter(pl.col("word") != "")
    words = words.with_columns(draw=pl.Series(rng.random(words.height)))
    kept = (pl.col("draw") >= share) | (pl.col("draw") == pl.col("draw").max().over("row"))
    words = words.filter(kept)
    if synonyms:
        words = _with_synonyms(words, read_synonyms(Path(synonyms).expanduser()), replace, rng)
    joined = words.group_by("row", maintain_order=True).agg(pl.col("word").str.join(" "))
    out = np.full(len(texts), "", object)
    out[joined["row"].to_numpy()] = joined["word"].to_numpy()
    return out.tolist()


def read_synonyms(path: Path) -> pl.DataFrame:
    """A file of synonyms as columns `key` (a word in lower case, once) and `others` (lists of words).

    Raises:
        UserError: The file isn't there, or a line has no word, tab and synonyms.
    """
    if not path.is_file():
        raise UserError(f"There is no file of synonyms '{path}'. Expected lines of a word, a tab, and synonyms: a, b.")
    lines = [line for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    parts = [line.split("\t") for line in lines]
    wrong = next((n for n, part in enumerate(parts) if len(part) != 2 or not all(p.strip() for p in part)), None)
    if wrong is not None:
        raise UserError(f"{path}: '{lines[wrong]}' is no line of synonyms. Expected a word, a tab, and synonyms: a, b.")
    frame = pl.DataFrame({"key": [p[0] for p in parts], "others": [p[1] for p in parts]}, schema_overrides=_TEXT)
    frame = frame.with_columns(pl.col("key").str.strip_chars().str.to_lowercase())
    others = pl.col("others").str.split(",").list.eval(pl.element().str.strip_chars().filter(pl.element() != ""))
    return frame.with_columns(others).unique("key", keep="first", maintain_order=True)


_TEXT = {"key": pl.String, "others": pl.String}


def _with_synonyms(
    words: pl.DataFrame, synonyms: pl.DataFrame, replace: float, rng: np.random.Generator
) -> pl.DataFrame:
    words = words.with_columns(key=pl.col("word").str.to_lowercase(), chance=pl.Series(rng.random(words.height)))
    words = words.with_columns(which=pl.Series(rng.random(words.height)))
    words = words.join(synonyms, on="key", how="left", maintain_order="left")
    count = pl.col("others").list.len().fill_null(0)
    place = (pl.col("which") * count).floor().cast(pl.Int64)
    other = pl.col("others").list.get(place, null_on_oob=True)
    return words.with_columns(
        word=pl.when(pl.col("chance") < replace).then(other).otherwise(None).fill_null(pl.col("word"))
    )


def apertium(
    texts: Sequence[str], seed: int, there: str = "eng-spa", back: str = "spa-eng", command: str = "apertium"
) -> list[str]:
    """Translates there and back by rules, with the command of the Apertium project where it is installed.

    Args:
        texts: Any texts, white space in them collapsed.
        seed: Not used: translation by rules has one answer.
        there, back: Pairs of languages as `apertium -l` lists them.
        command: The program.

    References:
        Forcada et al. 2011, "Apertium: a free/open-source platform for rule-based machine translation"; Sennrich et al.
        2016, "Improving neural machine translation models with monolingual data", for translating back.

    Raises:
        UserError: The command isn't installed or doesn't have a pair; the text names the packages.
    """
    rows = [row for row, text in enumerate(texts) if text.strip()]
    said = [" ".join(texts[row].split()) for row in rows]
    for pair in (there, back):
        said = _translated(said, pair, command) if said else said
    out = [""] * len(texts)
    for row, text in zip(rows, said, strict=True):
        out[row] = text
    return out


def _translated(texts: list[str], pair: str, command: str) -> list[str]:
    package = f"apertium-{pair}"
    try:
        done = subprocess.run(
            [command, "-u", pair], input=BETWEEN.join(texts) + "\n", capture_output=True, text=True, check=False
        )
    except FileNotFoundError as error:
        raise UserError(
            f"paraphrase 'apertium' needs the command '{command}', which is not installed. On Debian and Ubuntu: "
            f"apt install apertium {package} (or the pair the other way round)."
        ) from error
    if done.returncode:
        reason = (done.stderr or done.stdout).strip().splitlines()[:1]
        raise UserError(
            f"paraphrase 'apertium': '{command} -u {pair}' failed ({' '.join(reason)}). Is the pair installed? "
            f"`apertium -l` lists pairs; the package is {package}, or the pair the other way round."
        )
    found = [" ".join(part.split()) for part in done.stdout.strip("\n").split(BETWEEN)]
    if len(found) != len(texts):
        raise UserError(f"paraphrase 'apertium': '{pair}' made {len(found):,} texts out of {len(texts):,}.")
    return found
