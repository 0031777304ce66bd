"""Every metric once more, one user and one item at a time: slow, and easy to read against its formula."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from distill.data.dataset import Lists
from distill.ranking.cases import Cases

NAN = float("nan")


@dataclass
class World:
    """A small random evaluation in plain lists and sets."""

    n_items: int
    lists: list[list[int]]
    truth: list[list[int]]
    seen: list[list[int]]
    popularity: list[int]
    train_users: int
    categories: list[list[int]]
    activity: list[int]
    k: int


def lists_of(rows: list[list[int]]) -> Lists:
    return Lists(np.cumsum([0, *map(len, rows)]).astype(np.int64), np.array([x for row in rows for x in row], np.int32))


def cases_from(world: World) -> Cases:
    return Cases(
        users=np.arange(len(world.truth)),
        seen=lists_of(world.seen),
        truth=lists_of(world.truth),
        n_items=world.n_items,
        popularity=np.array(world.popularity, np.int64),
        activity=np.array(world.activity, np.int64),
        n_train_users=world.train_users,
        categories=lists_of(world.categories),
    )


def ranked_from(world: World) -> np.ndarray:
    width = max(world.k, max(map(len, world.lists), default=0))
    return np.array([row + [-1] * (width - len(row)) for row in world.lists], np.int32)


def random_world(rng: np.random.Generator) -> World:
    """Ties, unseen items, users without truth, empty and short lists, and cutoffs beyond the catalogue."""
    n_items, users, k = (int(rng.integers(low, high)) for low, high in ((1, 25), (1, 7), (1, 13)))
    popularity = rng.integers(0, rng.choice([2, 4, 40]), n_items).tolist()
    truth, seen, lists = [], [], []
    for _ in range(users):
        items = rng.permutation(n_items)
        a, b = sorted(rng.integers(0, n_items + 1, 2))
        a = 0 if rng.random() < 0.2 else a
        truth.append(items[:a].tolist())
        seen.append(items[a:b].tolist())
        scores = rng.integers(0, rng.choice([2, 5, 1000]), n_items)
        open_items = [i for i in range(n_items) if i not in set(seen[-1])]
        ranked = sorted(open_items, key=lambda i: (-scores[i], i))
        lists.append(ranked[: int(rng.integers(0, k + 3)) if rng.random() < 0.5 else k])
    categories = [rng.permutation(4)[: rng.integers(0, 4)].tolist() for _ in range(n_items)]
    activity = rng.integers(0, 5, users).tolist()
    train_users = int(rng.integers(max([*popularity, 1]), max([*popularity, 1]) + 5))
    return World(n_items, lists, truth, seen, popularity, train_users, categories, activity, k)


def mean(values: list[float]) -> float:
    present = [v for v in values if not math.isnan(v)]
    return sum(present) / len(present) if present else NAN


def head_of(popularity: list[int], share: float) -> set[int]:
    """The smallest most-popular set that holds the share, the crossing item included."""
    total, held, head = sum(popularity), 0, set()
    for item in sorted(range(len(popularity)), key=lambda i: (-popularity[i], i)):
        if held >= share * total:
            break
        head.add(item)
        held += popularity[item]
    return head


def user_value(name: str, world: World, user: int, tail: set[int]) -> float:
    """A metric of one user; nan where the user doesn't take part."""
    k, cut = world.k, world.lists[user][: world.k]
    relevant, n = set(world.truth[user]), world.n_items
    if name.startswith("tail_"):
        name, relevant = name.removeprefix("tail_"), relevant & tail
    discount = [1 / math.log2(r + 2) for r in range(k)]
    if name in ("aplt", "arp", "novelty"):
        if not cut:
            return NAN
        value = {
            "aplt": lambda i: float(i in tail),
            "arp": lambda i: float(world.popularity[i]),
            "novelty": lambda i: -math.log2(max(world.popularity[i], 1) / world.train_users),
        }[name]
        return sum(value(i) for i in cut) / len(cut)
    if name == "calibration":
        return miscalibration(world, user, cut)
    if not relevant:
        return NAN
    hits = [item in relevant for item in cut]
    if name == "recall":
        return sum(hits) / len(relevant)
    if name == "recall_capped":
        return sum(hits) / min(k, len(relevant))
    if name == "precision":
        return sum(hits) / k
    if name == "f1":
        p, r = sum(hits) / k, sum(hits) / len(relevant)
        return 2 * p * r / (p + r) if p + r else 0.0
    if name == "hit":
        return float(any(hits))
    if name == "mrr":
        return next((1 / (r + 1) for r, h in enumerate(hits) if h), 0.0)
    if name == "map":
        return sum(sum(hits[: r + 1]) / (r + 1) for r, h in enumerate(hits) if h) / min(k, len(relevant))
    if name == "ndcg":
        ideal = sum(discount[r] for r in range(min(k, len(relevant))))
        return sum(discount[r] for r, h in enumerate(hits) if h) / ideal
    if name == "auc":
        others = [i for i in range(n) if i not in relevant and i not in set(world.seen[user])]
        if not others:
            return NAN
        place = {item: r for r, item in enumerate(cut)}
        below = len(cut)
        pairs = [
            1.0 if place.get(p, below) < place.get(o, below) else 0.5 if p not in place and o not in place else 0.0
            for p in relevant
            for o in others
        ]
        return sum(pairs) / len(pairs)
    if name == "epc":
        gains = [1 - world.popularity[i] / world.train_users for i in cut]
        return sum(d * g for d, g, h in zip(discount, gains, hits, strict=False) if h) / sum(discount)
    if name == "efd":
        total = max(sum(world.popularity), 1)
        gains = [-math.log2(max(world.popularity[i], 1) / total) for i in cut]
        return sum(d * g for d, g, h in zip(discount, gains, hits, strict=False) if h) / sum(discount)
    if name == "ips_recall":
        return sum(w for i, w in enumerate(weights_of(world)) if i in relevant and i in cut) / len(relevant)
    raise AssertionError(name)


def weights_of(world: World) -> list[float]:
    top = max([*world.popularity, 1])
    return [1 / max((p / top) ** 1.25, 0.05) for p in world.popularity]


def miscalibration(world: World, user: int, cut: list[int]) -> float:
    mixes = []
    for items in (world.seen[user], cut):
        mix = [0.0] * 4
        for item in items:
            for category in world.categories[item]:
                mix[category] += 1 / len(world.categories[item])
        if sum(mix) == 0:
            return NAN
        mixes.append([m / sum(mix) for m in mix])
    return sum(p * math.log(p / (0.99 * q + 0.01 * p)) for p, q in zip(*mixes, strict=True) if p > 0)


def list_value(name: str, world: World, tail: set[int]) -> float:
    """A metric of all lists together."""
    users = range(len(world.lists))
    cuts = [row[: world.k] for row in world.lists]
    count = [sum(item in cut for cut in cuts) for item in range(world.n_items)]
    least = 5 if name.endswith("_5") else 1
    if name.startswith("coverage"):
        return sum(c >= least for c in count) / world.n_items
    if name.startswith("tail_coverage"):
        return sum(count[i] >= least for i in tail) / len(tail) if tail else NAN
    if name == "gini":
        if not sum(count):
            return NAN
        n, ordered = world.n_items, sorted(count)
        return sum((2 * j - n - 1) * e for j, e in enumerate(ordered, 1)) / (n * sum(ordered))
    if name == "entropy":
        total = sum(count)
        return -sum(c / total * math.log2(c / total) for c in count if c) if total else NAN
    if name == "tail_recall_micro":
        hits = sum(len(set(cut) & set(t) & tail) for cut, t in zip(cuts, world.truth, strict=True))
        relevant = sum(len(set(t) & tail) for t in world.truth)
        return hits / relevant if relevant else NAN
    if name == "snips_recall":
        weight = weights_of(world)
        hit_weight = sum(weight[i] for cut, t in zip(cuts, world.truth, strict=True) for i in set(cut) & set(t))
        total = sum(weight[i] for t in world.truth for i in t)
        return hit_weight / total if total else NAN
    if name == "popularity_lift":
        both = [u for u in users if cuts[u] and world.seen[u]]
        lists = sum(sum(world.popularity[i] for i in cuts[u]) / len(cuts[u]) for u in both)
        profiles = sum(sum(world.popularity[i] for i in world.seen[u]) / len(world.seen[u]) for u in both)
        return (lists - profiles) / profiles if profiles else NAN
    if name == "upd":
        return popularity_deviation(world, cuts)
    raise AssertionError(name)


def popularity_deviation(world: World, cuts: list[list[int]]) -> float:
    head, two_thirds = head_of(world.popularity, 1 / 3), head_of(world.popularity, 2 / 3)

    def mix(items: list[int]) -> list[float]:
        kinds = [0 if i in head else 1 if i in two_thirds else 2 for i in items]
        return [kinds.count(kind) / len(items) for kind in range(3)]

    def relative(p: list[float], q: list[float]) -> float:
        return sum(a * math.log2(a / b) for a, b in zip(p, q, strict=True) if a > 0)

    by_popularity = sorted(range(world.n_items), key=lambda i: (-world.popularity[i], i))
    popular = set(by_popularity[: world.n_items - round(0.8 * world.n_items)])
    users = len(world.lists)
    shares = [sum(i in popular for i in world.seen[u]) / max(len(world.seen[u]), 1) for u in range(users)]
    by_taste = sorted(range(users), key=lambda u: (shares[u], u))
    edge = round(0.2 * users)
    groups = [by_taste[:edge], by_taste[edge : users - edge], by_taste[users - edge :]]
    values = []
    for group in groups:
        divergences = []
        for u in group:
            if world.seen[u] and cuts[u]:
                p, q = mix(world.seen[u]), mix(cuts[u])
                middle = [(a + b) / 2 for a, b in zip(p, q, strict=True)]
                divergences.append((relative(p, middle) + relative(q, middle)) / 2)
        values.append(mean(divergences))
    return mean(values)
