"""A small data set whose users follow topics that the item texts name."""

import numpy as np

from distill.data.dataset import TRAIN, VALID, Dataset

TOPICS = {
    "ink": ["cartridge", "printer", "black", "toner", "laser"],
    "chair": ["desk", "leather", "swivel", "office", "arm"],
    "paper": ["sheet", "ream", "white", "recycled", "letter"],
    "pen": ["gel", "ballpoint", "blue", "fine", "point"],
}
PER_TOPIC = 10


def topical(n_users: int = 80, events: int = 6, empty: int = 0) -> Dataset:
    """Each user takes items of one topic; the last event is validation. The last `empty` items have no text."""
    rng = np.random.default_rng(2)
    names = list(TOPICS)
    texts = [" ".join([name, *rng.choice(TOPICS[name], 3, replace=False)]) for name in names for _ in range(PER_TOPIC)]
    texts += [""] * empty
    items = [rng.integers(len(names)) * PER_TOPIC + rng.permutation(PER_TOPIC)[:events] for _ in range(n_users)]
    return Dataset(
        user_ids=np.arange(n_users).astype(str),
        item_ids=np.arange(len(texts)).astype(str),
        titles=texts,
        texts=texts,
        indptr=np.arange(n_users + 1, dtype=np.int64) * events,
        items=np.concatenate(items).astype(np.int32),
        parts=np.tile(np.array([TRAIN] * (events - 1) + [VALID], np.uint8), n_users),
    )
