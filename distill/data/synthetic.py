"""Synthetic data sets of any size that a recommender can learn from: Zipf items, drifting interests, telling texts.

Every item belongs to one latent interest. Its text is made of the interest's words, so text models can find the
interest, and users of one interest share items, so collaborative models can find it too. Memory grows with the users,
the items and one chunk of interactions, never with all of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import polars as pl
import pyarrow as pa
from pyarrow import parquet

from distill.data.files import write_atomically
from distill.progress import track

CHUNK = 1_000_000  # interactions drawn and written at once; part of what a seed means
FIRST_SECOND, SPAN = 1_500_000_000, 200_000_000  # July 2017, and about six years of seconds
LOYALTY = 0.8  # share of a user's events that follow the user's interests
ITEMS_PER_INTEREST = 100  # fewest; there are at most as many interests as THEMES x STYLES
WORDS = 4  # of a theme, at most, in one item's text

STYLES = ("classic", "compact", "handmade", "outdoor", "premium", "quiet", "rustic", "smart", "vintage", "wireless")
THEMES = {
    "astronomy": "telescope planet star lens orbit eyepiece nebula",
    "baking": "flour yeast oven dough whisk loaf crust",
    "cycling": "bicycle pedal saddle wheel chain helmet brake",
    "drawing": "pencil sketch paper charcoal easel ink canvas",
    "fishing": "rod reel bait hook lure trout pier",
    "football": "ball goal pitch referee league boots jersey",
    "gardening": "seed soil shovel rose hedge compost pruner",
    "hiking": "trail boots tent backpack summit compass ridge",
    "history": "empire castle museum archive medieval dynasty treaty",
    "jazz": "saxophone trumpet swing quartet bass improvisation blues",
    "knitting": "yarn needle wool scarf stitch cable mitten",
    "modelling": "railway locomotive scale glue diorama kit decal",
    "photography": "camera tripod shutter film flash portrait filter",
    "robotics": "motor sensor servo controller arm circuit battery",
    "sailing": "sail anchor rope harbour mast compass deck",
    "skiing": "ski snow slope goggles lift glove wax",
    "tea": "teapot leaf oolong infuser cup kettle matcha",
    "theatre": "stage curtain drama costume actor script opera",
    "woodwork": "chisel plane oak saw bench varnish dowel",
    "yoga": "mat breath pose stretch balance block meditation",
}


@dataclass(frozen=True)
class World:
    """Who and what there is before anything happens.

    Attributes:
        interest: Interest of each item, int64 (N,).
        by_interest: Items in order of their interests, int64 (N,).
        mass: Running sum of item weights in that order, float64 (N,).
        bounds: Where each interest begins in `by_interest`, int64 (I + 1,).
        activity: Running sum of user weights, float64 (U,).
        early, late: Each user's interest at the beginning and at the end, int64 (U,).
    """

    interest: np.ndarray
    by_interest: np.ndarray
    mass: np.ndarray
    bounds: np.ndarray
    activity: np.ndarray
    early: np.ndarray
    late: np.ndarray


def make_world(users: int, items: int, seed: int) -> World:
    """Draws users and items.

    The r-th most popular item has the weight 1 / r (Zipf's law), activity of users is log-normal, and interests are
    equally common among items and among users.

    Args:
        users, items: U and N, at least 1 each.
        seed: Of the draws.
    """
    rng = np.random.default_rng([seed, 0])
    interests = int(np.clip(items // ITEMS_PER_INTEREST, 1, len(THEMES) * len(STYLES)))
    weight = 1.0 / (1 + rng.permutation(items))
    interest = rng.permutation(np.arange(items) % interests)
    by_interest = np.argsort(interest, kind="stable")
    return World(
        interest=interest,
        by_interest=by_interest,
        mass=np.cumsum(weight[by_interest]),
        bounds=np.searchsorted(interest[by_interest], np.arange(interests + 1)),
        activity=np.cumsum(rng.lognormal(0.0, 1.0, users)),
        early=rng.integers(0, interests, users),
        late=rng.integers(0, interests, users),
    )


def draw(world: World, clock: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Who meets what at some moments.

    With probability LOYALTY the item is of one of the user's two interests, the late one with a probability that rises
    from 0 to 1 over the whole time: interests drift. Else it is any item. Within these it is drawn by weight.

    Args:
        world: Users and items.
        clock: Moments from 0 to 1, (E,).
        rng: Of the draws.

    Returns:
        Users, items and ratings, int64 (E,). Ratings from 1 to 5 are higher for items of the user's interests.
    """
    count = len(clock)
    user = np.searchsorted(world.activity, rng.random(count) * world.activity[-1], side="right")
    user = np.minimum(user, len(world.activity) - 1)
    wanted = np.where(rng.random(count) < clock, world.late[user], world.early[user])
    loyal = rng.random(count) < LOYALTY
    first = np.where(loyal, world.bounds[wanted], 0)
    last = np.where(loyal, world.bounds[wanted + 1], len(world.mass))
    low = np.where(first > 0, world.mass[first - 1], 0.0)
    place = np.searchsorted(world.mass, low + rng.random(count) * (world.mass[last - 1] - low), side="right")
    item = world.by_interest[np.clip(place, first, last - 1)]
    rating = np.clip(rng.integers(1, 5, count) + (world.interest[item] == wanted), 1, 5)
    return user, item, rating


def write_interactions(path: Path, users: int, items: int, interactions: int, seed: int) -> None:
    """Writes user_id, item_id, rating and timestamp as Parquet, a chunk at a time, in the order in which they happened.

    Ids count from 1. A user may meet an item several times.

    Raises:
        UserError: The disk is full.
    """
    world = make_world(users, items, seed)
    starts = range(0, interactions, CHUNK)
    schema = pa.schema(
        {"user_id": pa.int64(), "item_id": pa.int64(), "rating": pa.int8(), "timestamp": pa.int64()}.items()
    )

    def write(file: BinaryIO) -> None:
        with parquet.ParquetWriter(file, schema, compression="zstd") as writer:
            for number, start in enumerate(track(starts, "synthetic interactions", unit=f"x {CHUNK:,}")):
                rng = np.random.default_rng([seed, 1, number])
                count = min(CHUNK, interactions - start)
                clock = (start + np.sort(rng.random(count)) * count) / interactions
                user, item, rating = draw(world, clock, rng)
                seconds = FIRST_SECOND + np.floor(clock * SPAN).astype(np.int64)
                columns = (user + 1, item + 1, rating.astype(np.int8), seconds)
                writer.write_table(pa.table([pa.array(column) for column in columns], schema=schema))

    write_atomically(path, write)


def write_items(path: Path, users: int, items: int, seed: int) -> None:
    """Writes item_id, title, description and category as Parquet.

    An interest is a theme in a style. Title and description name the style and two to four of the theme's words; the
    category is the theme.

    Args:
        path: The file.
        users, items, seed: As for `write_interactions`, whose items these are.
    """
    interest = make_world(users, items, seed).interest
    rng = np.random.default_rng([seed, 2])
    themes = np.array(list(THEMES))
    words = np.array([text.split() for text in THEMES.values()])
    theme, style = interest % len(THEMES), np.array(STYLES)[interest // len(THEMES)]
    order = np.argsort(rng.random((items, words.shape[1])), axis=1)[:, :WORDS]
    chosen = np.take_along_axis(words[theme], order, 1)
    title, description = np.char.capitalize(style), np.char.add("with ", chosen[:, 1])
    for word in chosen[:, 2:].T:
        description = np.char.add(description, np.where(rng.random(items) < 0.5, np.char.add(" ", word), ""))
    number = np.arange(1, items + 1)
    for more in (chosen[:, 0], "no.", number.astype(str)):
        title = np.char.add(np.char.add(title, " "), more)
    frame = pl.DataFrame({"item_id": number, "title": title, "description": description, "category": themes[theme]})
    write_atomically(path, frame.write_parquet)
