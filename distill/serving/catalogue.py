"""The items of a bundle: ids, titles and popularity, and how a person's words find them."""

from __future__ import annotations

import difflib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from distill.errors import UserError

SHOWN = 5  # suggestions in a message


@dataclass(frozen=True)
class Catalogue:
    """What is known of each item; the index of an item is its place.

    Attributes:
        ids: Original item ids, (N,).
        titles: Titles for display, (N,).
        popularity: Train interactions, int64 (N,).
    """

    ids: list[str]
    titles: list[str]
    popularity: np.ndarray

    @classmethod
    def read(cls, path: Path) -> Catalogue:
        """Reads the items.json of a bundle.

        Raises:
            UserError: Its lists differ in length.
        """
        about = json.loads(path.read_text(encoding="utf-8"))
        ids, titles, counts = about["ids"], about["titles"], np.array(about["popularity"], np.int64)
        if not len(ids) == len(titles) == len(counts):
            raise UserError(
                f"{path}: {len(ids)} ids, {len(titles)} titles, {len(counts)} counts. Export the bundle again."
            )
        return cls(ids, titles, counts)

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def by_popularity(self) -> np.ndarray:
        """Item indices from most to least popular, ties by lower index, int64 (N,)."""
        return np.argsort(-self.popularity, kind="stable")

    def index_of_id(self, item_id: str) -> int:
        """The index of an original item id.

        Raises:
            UserError: There is no such item.
        """
        index = self._places.get(str(item_id))
        if index is None:
            close = difflib.get_close_matches(str(item_id), self.ids, n=SHOWN)
            hint = f" Close ones: {', '.join(close)}." if close else f" Ids look like '{self.ids[0]}'."
            raise UserError(f"There is no item with the id '{item_id}' in this bundle.{hint}")
        return index

    def index_of_title(self, words: str) -> int:
        """The index of the item with this title, or else of the one item whose title holds these words.

        Upper and lower case are the same.

        Raises:
            UserError: No title fits (with the nearest ones), or several do.
        """
        wanted = words.strip().casefold()
        if not wanted:
            raise UserError("An empty title was asked for; expected the title of an item, or a part of it.")
        found = self._titles.get(wanted, [])
        if not found:
            found = [i for title, places in self._titles.items() if wanted in title for i in places]
        if len(found) == 1:
            return found[0]
        if found:
            shown = "; ".join(f"'{self.titles[i]}' (id {self.ids[i]})" for i in found[:SHOWN])
            rest = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
            raise UserError(
                f"'{words}' fits {len(found)} items: {shown}{rest}. Give the whole title, or the item's id."
            )
        close = difflib.get_close_matches(wanted, self._titles, n=SHOWN, cutoff=0.5)
        shown = "; ".join(f"'{self.titles[self._titles[title][0]]}'" for title in close)
        raise UserError(
            f"No title fits '{words}'." + (f" Did you mean: {shown}?" if shown else " None is close, either.")
        )

    @cached_property
    def _places(self) -> dict[str, int]:
        return {item_id: index for index, item_id in enumerate(self.ids)}

    @cached_property
    def _titles(self) -> dict[str, list[int]]:
        places: dict[str, list[int]] = {}
        for index, title in enumerate(self.titles):
            places.setdefault(title.strip().casefold(), []).append(index)
        return places
