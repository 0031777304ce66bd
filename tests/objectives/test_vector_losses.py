"""Each loss on vectors against a value worked by hand; what it refuses; what the contract of such a loss catches."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from distill.contracts import check_loss_module
from distill.contracts.representation import make_knowledge, make_representation, make_target
from distill.errors import UserError
from distill.objectives.alignment import ContrastiveAlignment, ProfileGuide, guide_distance, info_nce
from distill.objectives.features import FeatureExperts, FeatureFitnet
from distill.objectives.frequency import FeatureFrequency, graph_filter
from distill.objectives.neighbours import NeighbourSelfDistillation, neighbour_distance
from distill.objectives.topology import Topology, anchor_groups, topology_distance
from distill.objectives.vectors import feature_distance

KNOWLEDGE = make_knowledge()


def cosine(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True)) / math.hypot(*a) / math.hypot(*b)


def plain(module, vector):
    """A linear map in plain Python."""
    weight, bias = module.weight.tolist(), module.bias.tolist()
    return [sum(w * x for w, x in zip(ws, vector, strict=True)) + b for ws, b in zip(weight, bias, strict=True)]


class TestFeatures:
    def test_the_distance_by_hand(self):
        student, teacher = torch.tensor([[1.0, 2.0], [0.0, 0.0]]), torch.tensor([[0.0, 4.0], [3.0, 0.0]])
        assert float(feature_distance(student, teacher)) == (1 + 4 + 9 + 0) / 2 / 2

    def test_fitnet_by_hand(self):
        module = FeatureFitnet(KNOWLEDGE)
        given, target = make_representation(KNOWLEDGE), make_target(KNOWLEDGE)
        expected = 0.0
        for query, hidden in zip(given.query.tolist(), target.hidden.tolist(), strict=True):
            mapped = plain(module.map, query)
            expected += sum((a - b) ** 2 for a, b in zip(mapped, hidden, strict=True)) / 8 / 12
        assert module(given, target).item() == pytest.approx(expected, rel=1e-5)

    def test_fitnet_of_all_items(self):
        module = FeatureFitnet(KNOWLEDGE, side="items", samples=0)
        given = make_representation(KNOWLEDGE)
        expected = feature_distance(module.map(given.table), KNOWLEDGE.item_vectors)
        assert module(given, replace(make_target(KNOWLEDGE), hidden=None)).item() == pytest.approx(expected.item())

    def test_the_experts_by_hand(self):
        """Two experts of width 2 on one context, in evaluation mode: the gate is a softmax."""
        torch.manual_seed(0)
        module = FeatureExperts(KNOWLEDGE, experts=2, width=2, end_temperature=0.25).eval()
        given, target = make_representation(KNOWLEDGE, rows=1), replace(make_target(KNOWLEDGE, rows=1), progress=0.5)
        query, hidden = given.query[0].tolist(), target.hidden[0].tolist()
        length = math.hypot(*hidden)
        logits = [v / 0.5 for v in plain(module.choice, [h / length for h in hidden])]  # 1^.5 * .25^.5 = .5
        gate = [math.exp(v) / sum(map(math.exp, logits)) for v in logits]
        inner = [max(v, 0.0) for v in plain(module.inner, query)]
        outer, offset = module.outer.weight.tolist(), module.offset.weight.tolist()
        expected = 0.0
        for place, wanted in enumerate(hidden):
            experts = [
                sum(outer[place][2 * m + n] * inner[2 * m + n] for n in (0, 1)) + offset[place][m] for m in (0, 1)
            ]
            expected += (sum(g * e for g, e in zip(gate, experts, strict=True)) - wanted) ** 2 / 8
        assert module(given, target).item() == pytest.approx(expected, rel=1e-5)

    def test_in_training_the_gate_is_drawn(self):
        module, given, target = FeatureExperts(KNOWLEDGE), make_representation(KNOWLEDGE), make_target(KNOWLEDGE)
        assert module(given, target).item() != module(given, target).item()

    def test_the_filter_by_hand(self):
        """A path 0 - 1 - 2 with weights 1 and 3, and 3 alone: degrees 1, 4, 3, 0."""
        pairs, counts = torch.tensor([[0, 2], [1, 1]]), torch.tensor([1, 3])
        found = graph_filter(pairs, counts, torch.tensor([[1.0], [2.0], [4.0], [8.0]]), alpha=0.2)
        a01, a12 = 1 / math.sqrt(1 * 4), 3 / math.sqrt(4 * 3)
        expected = [0.2 * 2 * a01 + 0.8, 0.2 * (a01 + 4 * a12) + 1.6, 0.2 * 2 * a12 + 3.2, 6.4]
        assert found[:, 0].tolist() == pytest.approx(expected)

    def test_frequency_by_hand(self):
        module, given = FeatureFrequency(KNOWLEDGE, samples=0), make_representation(KNOWLEDGE)
        difference = (
            given.table @ module.map.weight.T - KNOWLEDGE.item_vectors
        )  # the filter is linear: it may come last
        filtered = graph_filter(KNOWLEDGE.pairs, KNOWLEDGE.pair_counts, difference.detach(), 0.2)
        expected = sum(v * v for values in filtered.tolist() for v in values) / 23 / 8
        assert module(given, make_target(KNOWLEDGE)).item() == pytest.approx(expected, rel=1e-5)

    def test_without_neighbours_the_filter_is_none(self):
        given = make_representation(KNOWLEDGE)
        torch.manual_seed(0)
        module = FeatureFrequency(KNOWLEDGE, alpha=0.0, samples=0)
        expected = feature_distance(module.map(given.table), KNOWLEDGE.item_vectors)
        assert module(given, make_target(KNOWLEDGE)).item() == pytest.approx(expected.item())


class TestTopology:
    def test_by_hand(self):
        """Rows 0 and 1 are one group, row 2 another."""
        student, teacher = [[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], [[1.0, 0.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 2.0]]

        def shape(rows):
            mean = [(a + b) / 2 for a, b in zip(rows[0], rows[1], strict=True)]
            return [cosine(p, r) for p in (mean, rows[2]) for r in rows], cosine(rows[0], rows[1])

        (between, inside), (between_teacher, inside_teacher) = shape(student), shape(teacher)
        first = sum((a - b) ** 2 for a, b in zip(between, between_teacher, strict=True)) / 6
        second = (inside - inside_teacher) ** 2
        found = topology_distance(torch.tensor(student), torch.tensor(teacher), torch.tensor([0, 0, 1]), 0.3)
        assert float(found) == pytest.approx(0.3 * first + 0.7 * second, rel=1e-5)

    def test_a_turned_and_stretched_space_has_the_same_shape(self):
        torch.manual_seed(0)
        teacher = torch.randn(20, 5)
        turn, _ = torch.linalg.qr(torch.randn(5, 5))
        assert float(topology_distance(3 * teacher @ turn, teacher, anchor_groups(teacher, 4), 0.5)) < 1e-10

    def test_groups_are_those_of_the_nearest_anchor(self):
        torch.manual_seed(0)
        teacher = torch.randn(30, 5)
        torch.manual_seed(1)
        anchors = teacher[torch.randperm(30)[:4]].tolist()
        torch.manual_seed(1)
        found = anchor_groups(teacher, 4).tolist()
        expected = [max(range(4), key=lambda g: cosine(row, anchors[g])) for row in teacher.tolist()]
        assert found == expected

    def test_one_group_is_the_full_topology(self):
        given, target = make_representation(KNOWLEDGE), make_target(KNOWLEDGE)
        found = Topology(KNOWLEDGE, groups=1, alpha=0.0)(given, target).item()
        pairs = [(i, j) for i in range(12) for j in range(12) if i != j]
        query, hidden = given.query.tolist(), target.hidden.tolist()
        expected = sum((cosine(query[i], query[j]) - cosine(hidden[i], hidden[j])) ** 2 for i, j in pairs) / len(pairs)
        assert found == pytest.approx(expected, rel=1e-4)


class TestAlignment:
    def test_info_nce_by_hand(self):
        student, teacher = [[1.0, 0.0], [1.0, 1.0], [0.0, 2.0]], [[2.0, 1.0], [0.0, 1.0], [1.0, 3.0]]
        logits = [[cosine(z, e) / 0.5 for e in teacher] for z in student]
        expected = sum(math.log(sum(map(math.exp, row))) - row[u] for u, row in enumerate(logits)) / 3
        found = info_nce(torch.tensor(student), torch.tensor(teacher), 0.5)
        assert float(found) == pytest.approx(expected, rel=1e-5)
        kept = [[0, 2], [1, 2], [0, 1, 2]]  # rows 0 and 1 are one user's
        expected = sum(math.log(sum(math.exp(logits[u][v]) for v in kept[u])) - logits[u][u] for u in range(3)) / 3
        found = info_nce(torch.tensor(student), torch.tensor(teacher), 0.5, torch.tensor([4, 4, 5]))
        assert float(found) == pytest.approx(expected, rel=1e-5)

    def test_contexts_without_a_user_are_each_others_negatives(self):
        vectors = torch.eye(3)
        assert info_nce(vectors, vectors, 1.0, torch.tensor([-1, -1, -1])) == info_nce(vectors, vectors, 1.0)

    def test_the_papers_form_counts_every_row(self):
        given, target = make_representation(KNOWLEDGE), replace(make_target(KNOWLEDGE), user=torch.arange(12) // 3)
        values = {}
        for form in ("fixed", "paper"):
            torch.manual_seed(0)
            values[form] = ContrastiveAlignment(KNOWLEDGE, form=form)(given, target).item()
        assert values["fixed"] < values["paper"]

    def test_the_guide_by_hand_and_its_end(self):
        found = guide_distance(torch.tensor([[1.0, 2.0], [0.0, 1.0]]), torch.tensor([[0.0, 0.0], [0.0, 3.0]]))
        assert float(found) == (1 + 4 + 0 + 4) / 4
        module, given = ProfileGuide(KNOWLEDGE, until=0.4), make_representation(KNOWLEDGE)
        target = make_target(KNOWLEDGE)
        query, hidden = given.query.tolist(), target.hidden.tolist()
        mapped = [plain(module.map, vector) for vector in hidden]
        expected = sum((a - b) ** 2 for q, m in zip(query, mapped, strict=True) for a, b in zip(q, m, strict=True)) / 72
        assert module(given, replace(target, progress=0.39)).item() == pytest.approx(expected, rel=1e-5)
        late = module(given, replace(target, progress=0.4))
        late.backward()
        assert late.item() == 0.0 and not given.query.grad.any() and not module.map.weight.grad.any()


class TestNeighbours:
    def test_the_distance_by_hand(self):
        """Weights 1/2 and 1/5 of mean 1 are 10/7 and 4/7; the third context doesn't count."""
        query, mean = torch.tensor([[1.0, 0.0], [2.0, 2.0], [9.0, 9.0]]), torch.zeros(3, 2)
        found = neighbour_distance(query, mean, torch.tensor([1, 4, 0]), torch.tensor([True, True, False]))
        assert float(found) == pytest.approx((10 / 7 * 0.5 + 4 / 7 * 4.0) / 2)

    def module(self):
        neighbours = torch.tensor([[1, 2, 0], [0, 2, -1], [0, 1, -1]])
        knowledge = replace(KNOWLEDGE, n_users=3, dim=2, neighbours=neighbours, user_events=torch.tensor([1, 4, 0]))
        return NeighbourSelfDistillation(knowledge)

    def batch(self, module, users, query):
        given = replace(make_representation(KNOWLEDGE, rows=len(users)), query=torch.tensor(query))
        return float(module(given, replace(make_target(KNOWLEDGE, len(users)), user=torch.tensor(users))))

    def test_users_are_drawn_to_what_their_neighbours_were(self):
        module = self.module()
        assert self.batch(module, [1, 2, 1], [[9.0, 9.0], [1.0, 1.0], [3.0, 5.0]]) == 0.0  # nobody is known yet
        assert module.remembered.tolist() == [[0.0, 0.0], [3.0, 5.0], [1.0, 1.0]]  # of user 1 the last row
        mean = [2.0, 3.0]
        found = self.batch(module.eval(), [0, -1], [[0.0, 0.0], [7.0, 7.0]])
        assert found == pytest.approx((mean[0] ** 2 + mean[1] ** 2) / 2)
        assert not module.known[0], "nothing is remembered in evaluation mode"

    def test_the_memory_is_saved(self):
        module, again = self.module(), self.module()
        self.batch(module, [1, 2], [[1.0, 2.0], [3.0, 4.0]])
        again.load_state_dict(module.state_dict())
        query = [[0.5, 0.5]]
        assert self.batch(again.eval(), [0], query) == self.batch(module.eval(), [0], query) > 0


@pytest.mark.parametrize(
    ("make", "missing", "setting"),
    [
        (FeatureFitnet, {"hidden": 0}, r"scores\.hidden"),
        (FeatureExperts, {"hidden": 0}, r"scores\.hidden"),
        (Topology, {"hidden": 0}, r"scores\.hidden"),
        (ContrastiveAlignment, {"hidden": 0}, r"scores\.hidden"),
        (ProfileGuide, {"hidden": 0}, r"scores\.hidden"),
        (NeighbourSelfDistillation, {"neighbours": None}, r"scores\.hidden"),
        (FeatureFrequency, {"item_vectors": None}, r"teacher\.members"),
        (lambda k: FeatureFitnet(k, side="items"), {"item_vectors": None}, r"teacher\.members"),
        (FeatureFrequency, {"pairs": None}, "follow each other"),
        (FeatureFrequency, {"pairs": torch.zeros(2, 0).long()}, "follow each other"),
    ],
)
def test_what_is_missing_is_named_before_training_starts(make, missing, setting):
    with pytest.raises(UserError, match=setting):
        make(replace(KNOWLEDGE, **missing))


@pytest.mark.parametrize("make", [FeatureFitnet, FeatureExperts, Topology, ContrastiveAlignment, ProfileGuide])
def test_a_batch_without_vectors_says_what_to_set(make):
    with pytest.raises(UserError, match=r"scores\.hidden"):
        make(KNOWLEDGE)(make_representation(KNOWLEDGE), replace(make_target(KNOWLEDGE), hidden=None))


class Faulty(nn.Module):
    """A sound loss, and one fault of its own."""

    def __init__(self, knowledge, fault):
        super().__init__()
        self.map = nn.Linear(knowledge.dim, knowledge.hidden)
        self.unused = nn.Parameter(torch.zeros(2)) if fault == "unused" else None
        if fault == "unseeded":
            nn.init.normal_(self.map.weight, generator=torch.Generator().manual_seed(id(self) % 1000))
        self.fault = fault

    def forward(self, representation, target):
        found = (self.map(representation.query) - target.hidden).square().mean(-1)
        if self.fault == "rows":
            return found
        if self.fault == "sum":
            return found.sum()
        if self.fault == "reversed":
            return 2 * found.mean().detach() - found.mean()
        return found.mean() + (math.nan if self.fault == "nan" else 0.0)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("rows", "expected a scalar"),
        ("nan", "the loss is nan"),
        ("sum", "isn't a mean over contexts"),
        ("teacher", "a gradient reaches the teacher's vectors"),
        ("unused", "no gradient reaches"),
        ("reversed", "finite differences"),
        ("unseeded", "isn't decided by torch.manual_seed"),
    ],
)
def test_the_contract_catches(fault, message):
    made = []

    def make(knowledge):
        made.append(Faulty(knowledge, fault))  # kept, so that no two have one id
        if fault != "teacher":
            made[-1].register_forward_pre_hook(
                lambda _, given: (given[0], replace(given[1], hidden=given[1].hidden.detach()))
            )
        return made[-1]

    with pytest.raises(AssertionError, match=message):
        check_loss_module(make)


def test_the_contract_catches_what_training_does_not_lower():
    class Reversed(Faulty):
        def forward(self, representation, target):
            return super().forward(representation, replace(target, hidden=target.hidden.detach()))

    with pytest.raises(AssertionError, match="steps of training lead"):
        check_loss_module(lambda knowledge: Reversed(knowledge, "reversed"), finite_differences=False)
