"""Each loss on a teacher's scores against a value worked by hand, and how the losses relate to each other."""

import math
from dataclasses import replace
from functools import partial

import pytest
import torch
from loss_samples import (
    ITEMS,
    LABEL,
    SCORES,
    STRATA,
    one,
    real,
    row,
    sigmoid,
    softmax,
    softplus,
    standardised,
    student_scores,
    target,
    unseen,
)

from distill.contracts.loss import is_random
from distill.errors import UserError
from distill.objectives.hard import bce, bpr, cross_entropy, sampled_softmax
from distill.objectives.listwise import listwise_kl, stratified_kl
from distill.objectives.pairwise import margin_mse, soft_bpr, unkd
from distill.objectives.pointwise import rank_distillation, soft_bce
from distill.objectives.ranked import relaxed_listmle
from distill.objectives.rejuvenated import rce
from distill.soft.target import SoftTarget

ALL_PAIRS = partial(unkd, pairs=0)


def value(loss, scores, given, **settings):
    return float(loss(scores, given, **settings))


def mean_of(loss, scores, given, draws=400, **settings):
    """Mean and standard error over draws."""
    torch.manual_seed(0)
    found = torch.tensor([value(loss, scores, given, **settings) for _ in range(draws)], dtype=torch.float64)
    return float(found.mean()), float(found.std() / math.sqrt(draws))


class TestHard:
    def test_bpr_by_hand(self):
        expected = 0.0
        for context in range(2):
            own = SCORES[context][LABEL[context]]
            others = [SCORES[context][j] for j in unseen(context) if j != LABEL[context]]
            expected += sum(softplus(other - own) for other in others) / len(others) / 2
        assert value(bpr, student_scores(), target(), negatives=0) == pytest.approx(expected, abs=1e-9)

    def test_bce_by_hand(self):
        expected = 0.0
        for context in range(2):
            others = [SCORES[context][j] for j in unseen(context) if j != LABEL[context]]
            expected += softplus(-SCORES[context][LABEL[context]]) / 2
            expected += sum(softplus(other) for other in others) / len(others) / 2
        assert value(bce, student_scores(), target(), negatives=0) == pytest.approx(expected, abs=1e-9)

    @pytest.mark.parametrize("loss", [bpr, bce])
    def test_drawn_negatives_have_the_mean_of_all(self, loss):
        mean, error = mean_of(loss, student_scores(), target(), negatives=1000, draws=50)
        assert abs(mean - value(loss, student_scores(), target(), negatives=0)) < 4 * error + 1e-6

    @pytest.mark.parametrize("proposal", ["uniform", "popularity"])
    def test_the_sampled_normaliser_is_unbiased(self, proposal):
        """exp(loss + s_y) is the estimate of the sum of all exp(s)."""
        scores, given = student_scores()[:1], target(label=torch.tensor([2]))
        given = replace(given, label=given.label[:1])
        torch.manual_seed(0)
        drawn = [
            math.exp(value(sampled_softmax, scores, given, negatives=3, proposal=proposal) + 2.0) for _ in range(4000)
        ]
        found = torch.tensor(drawn)
        wanted = sum(math.exp(SCORES[0][i]) for i in unseen(0))
        assert abs(float(found.mean()) - wanted) < 4 * float(found.std()) / math.sqrt(len(drawn))

    def test_sampled_softmax_with_every_item_is_cross_entropy(self):
        exact = value(cross_entropy, student_scores(), target())
        assert value(sampled_softmax, student_scores(), target(), negatives=0) == exact
        mean, _ = mean_of(sampled_softmax, student_scores(), target(), negatives=20_000, draws=5)
        assert mean == pytest.approx(exact, abs=0.02)


class TestListwise:
    def log_q(self, context, temperature):
        free = unseen(context)
        return dict(zip(free, map(math.log, softmax([SCORES[context][i] / temperature for i in free])), strict=True))

    @pytest.mark.parametrize("direction", ["forward", "reverse", "jsd"])
    def test_directions_at_a_temperature_by_hand(self, direction):
        """Three cells for context 0 and a bucket with mass .3; two and a bucket for context 1."""
        expected = 0.0
        for context in range(2):
            found, pairs = self.log_q(context, 2.0), real(context)
            p = [0.7 * v for v in softmax([1.5 * t / 2.0 for _, t in pairs])] + [0.3]
            q = [math.exp(found[i]) for i, _ in pairs]
            q.append(1 - sum(q))
            if direction == "forward":
                parts = [-a * math.log(b) for a, b in zip(p, q, strict=True)]
            elif direction == "reverse":
                parts = [b * math.log(b / a) for a, b in zip(p, q, strict=True)]
            else:
                m = [(a + b) / 2 for a, b in zip(p, q, strict=True)]
                parts = [0.5 * a * math.log(a / c) + 0.5 * b * math.log(b / c) for a, b, c in zip(p, q, m, strict=True)]
            expected += 4.0 * sum(parts) / 2
        settings = {"sharpening": 1.5, "rest": 0.3, "temperature": 2.0, "direction": direction}
        assert value(listwise_kl, student_scores(), target(), **settings) == pytest.approx(expected, abs=1e-7)

    def test_ignoring_the_tail_by_hand(self):
        expected = 0.0
        for context in range(2):
            pairs = real(context)
            p, q = softmax([2 * t for _, t in pairs]), softmax([SCORES[context][i] for i, _ in pairs])
            expected -= sum(a * math.log(b) for a, b in zip(p, q, strict=True)) / 2
        assert value(listwise_kl, student_scores(), target(), tail="ignore") == pytest.approx(expected, abs=1e-9)

    def test_weights_multiply_p_which_is_scaled_back(self):
        weights = [3.0, 0.5, 1.0]
        raw = [w * math.exp(2 * t) for w, (_, t) in zip(weights, real(0), strict=True)]
        found = self.log_q(0, 1.0)
        inside = sum(p / sum(raw) * found[i] for p, (i, _) in zip(raw, real(0), strict=True))
        outside = math.log(1 - sum(math.exp(found[i]) for i, _ in real(0)))
        given = target(weights=torch.tensor([weights, weights]))
        first = replace(given, items=given.items[:1], scores=given.scores[:1], weights=given.weights[:1])
        found = value(listwise_kl, student_scores()[:1], first)
        assert found == pytest.approx(-0.8 * inside - 0.2 * outside, abs=1e-6)

    def test_one_item_is_cross_entropy(self):
        given = target(items=torch.tensor(LABEL)[:, None], scores=torch.zeros(2, 1))
        found = value(listwise_kl, student_scores(), given, rest=0.0)
        assert found == pytest.approx(value(cross_entropy, student_scores(), given), abs=1e-9)

    @pytest.mark.parametrize("direction", ["forward", "reverse", "jsd"])
    @pytest.mark.parametrize("sharpening", [1.0, 2.0])
    def test_the_sampled_tail_is_unbiased_and_the_top_k_alone_is_not(self, direction, sharpening):
        torch.manual_seed(4)
        student, teacher = torch.randn(1, 40, dtype=torch.float64), 2 * torch.randn(1, 40, dtype=torch.float64)
        best = teacher.topk(5)
        log_p, log_q = (sharpening * teacher).log_softmax(-1)[0].tolist(), student.log_softmax(-1)[0].tolist()
        exact = 0.0
        for a, b in zip(log_p, log_q, strict=True):
            p, q = math.exp(a), math.exp(b)
            m = math.log((p + q) / 2)
            jsd = 0.5 * p * (a - m) + 0.5 * q * (b - m)
            exact += {"forward": -p * b, "reverse": q * (b - a), "jsd": jsd}[direction]
        logz = torch.stack([(teacher * b).logsumexp(-1) for b in (1.0, 2.0)], 1)
        given = SoftTarget(torch.tensor([-1]), best.indices, best.values, logz, temperatures=(1.0, 0.5))
        others = torch.ones(40).scatter(0, best.indices[0], 0.0)
        loss = partial(listwise_kl, tail="sampled", sharpening=sharpening, direction=direction)
        drawn = []
        for _ in range(1000):
            items = torch.multinomial(others, 8, replacement=True)[None]
            tail = {"tail_items": items, "tail_scores": teacher.gather(1, items)}
            drawn.append(value(loss, student, replace(given, **tail, tail_logq=torch.full((1, 8), -math.log(35)))))
        found = torch.tensor(drawn)
        error = float(found.std()) / math.sqrt(1000)
        assert abs(float(found.mean()) - exact) < 3 * error
        assert value(loss, student, replace(given, dense=teacher)) == pytest.approx(exact, abs=1e-9)
        top_alone = value(listwise_kl, student, given, tail="ignore", sharpening=sharpening, direction=direction)
        assert abs(top_alone - exact) > 3 * error

    def test_without_a_tail_or_its_temperature_it_says_what_to_set(self):
        with pytest.raises(UserError, match=r"scores\.tail_samples"):
            listwise_kl(student_scores(), target(), sharpening=1.0, tail="sampled")
        with pytest.raises(UserError, match=r"scores\.temperatures"):
            listwise_kl(student_scores(), target(), sharpening=4.0, tail="sampled")

    def test_stratified_weights_by_hand(self):
        """Only stratum 0 of context 0 has two items (2 and 0), only stratum 1 of context 1 (1 and 3)."""
        given = target(weights=torch.tensor([[3.0, 1.0, 1.0], [1.0, 2.0, 1.0]]))
        expected = 0.0
        for context, (a, b), weights in ((0, (2, 0), (3, 1)), (1, (1, 3), (1, 2))):
            scores = dict(real(context))
            raw = [w * math.exp(2 * scores[i]) for w, i in zip(weights, (a, b), strict=True)]
            p, q = [v / sum(raw) for v in raw], softmax([SCORES[context][a], SCORES[context][b]])
            expected += sum(x * math.log(x / y) for x, y in zip(p, q, strict=True)) / 2
        assert value(stratified_kl, student_scores(), given) == pytest.approx(expected, abs=1e-6)


class TestPointwise:
    def test_soft_bce_by_hand(self):
        expected = 0.0
        for context in range(2):
            items, teacher = zip(*real(context), strict=True)
            terms = [
                softplus(SCORES[context][i]) - sigmoid(t / 2.0) * SCORES[context][i]
                for i, t in zip(items, standardised(teacher), strict=True)
            ]
            expected += sum(terms) / len(terms) / 2
        settings = {"samples": 0, "negatives": 0, "temperature": 2.0}
        assert value(soft_bce, student_scores(), target(), **settings) == pytest.approx(expected, abs=1e-9)

    def test_soft_bce_of_a_certain_teacher_is_bce(self):
        given = one([1, 0, 2], [0.0, -3.0, -3.0], scores=torch.tensor([[900.0, -900.0, -900.0]]))
        scores = row(0.3, -0.4, 1.1)
        soft = value(soft_bce, scores, given, samples=0, negatives=0, standardise=False)
        expected = (softplus(0.4) + softplus(0.3) + softplus(1.1)) / 3
        assert soft == pytest.approx(expected, abs=1e-9)
        assert value(bce, scores, given, negatives=0) == pytest.approx(
            softplus(0.4) + (softplus(0.3) + softplus(1.1)) / 2
        )

    def test_soft_bce_weights_multiply_terms(self):
        given = one([0, 1], [1.0, -1.0], weights=torch.tensor([[2.0, 0.5]]))
        terms = [softplus(0.3) - sigmoid(1.0) * 0.3, softplus(-0.2) + sigmoid(-1.0) * 0.2]
        found = value(soft_bce, row(0.3, -0.2, 0.0), given, samples=0, negatives=0, temperature=1.0)
        assert found == pytest.approx((2.0 * terms[0] + 0.5 * terms[1]) / 2, abs=1e-9)

    def test_soft_bce_gives_negatives_what_is_left_of_the_teachers_mass(self):
        """Of 4 items two are listed; logz = log 4 leaves the others half of the mass, so t = 0 for each of all four."""
        given = one([0, 1], [0.0, 0.0], logz=torch.full((1, 1), math.log(4.0), dtype=torch.float64))
        torch.manual_seed(0)
        usable = int((torch.randint(4, (1, 50)) >= 2).sum())
        torch.manual_seed(0)
        settings = {"samples": 0, "negatives": 50, "temperature": 1.0, "standardise": False}
        found = value(soft_bce, row(0.0, 0.0, 2.0, 2.0), given, **settings)
        expected = (2 * math.log(2) + usable * (softplus(2.0) - 0.5 * 2.0)) / (2 + usable)
        assert found == pytest.approx(expected, abs=1e-6)

    @pytest.mark.parametrize("sampling", ["uniform", "rank", "discrepancy"])
    def test_drawn_candidates_are_drawn_as_said(self, sampling):
        """One candidate of three a draw; the loss of each is another number, so the mean tells the shares."""
        given, scores = one([0, 1, 2], [1.0, 0.0, -1.0]), row(-3.0, 1.0, 2.0, 5.0, 4.0)
        answers = [sigmoid(t) for t in standardised([1.0, 0.0, -1.0])]
        terms = [softplus(s) - a * s for s, a in zip((-3.0, 1.0, 2.0), answers, strict=True)]
        weights = {
            "uniform": [1, 1, 1],
            "rank": [math.exp(-k) for k in (1, 2, 3)],
            "discrepancy": [math.tanh(0.5 * max(r - k, 0)) for r, k in ((5, 1), (4, 2), (3, 3))],
        }[sampling]
        expected = sum(w * term for w, term in zip(weights, terms, strict=True)) / sum(weights)
        settings = {"samples": 1, "negatives": 0, "temperature": 1.0, "spread": 1.0, "epsilon": 0.5, "rank_samples": 0}
        mean, error = mean_of(soft_bce, scores, given, draws=2000, sampling=sampling, **settings)
        assert abs(mean - expected) < 4 * error

    def test_rank_distillation_by_hand(self):
        """Ranks by the student: items 2, 0, 4 of context 0 are 1st, 3rd, 2nd; items 1, 3 of context 1 are 2nd, 1st."""
        start = target(progress=0.0)
        expected, later = 0.0, 0.0
        for context, ranks in ((0, (1, 3, 2)), (1, (2, 1))):
            raw = [math.exp(-k / 2.0) for k in range(1, len(ranks) + 1)]
            for k, ((item, _), rank) in enumerate(zip(real(context), ranks, strict=True), 1):
                weight = raw[k - 1] / sum(raw)
                expected += weight * softplus(-SCORES[context][item]) / 2
                later += weight * math.tanh(max(0.3 * (rank - k), 0)) * softplus(-SCORES[context][item]) / 2
        settings = {"decay": 2.0, "discrepancy": 0.3, "samples": 0, "warmup": 0.5}
        found = value(rank_distillation, student_scores(), start, **settings)
        assert found == pytest.approx(expected, abs=1e-9)
        found = value(rank_distillation, student_scores(), replace(start, progress=0.5), **settings)
        assert found == pytest.approx(later, abs=1e-9)

    def test_rank_distillation_as_in_the_paper_scales_weights_to_one(self):
        given = one([0, 1], [2.0, 1.0], progress=1.0)  # the student ranks them 3rd and 4th: both are 2 behind
        raw = [math.exp(-1), math.exp(-2)]
        expected = (raw[0] * softplus(1.0) + raw[1] * softplus(2.0)) / sum(raw)
        found = value(rank_distillation, row(-1.0, -2.0, 5.0, 4.0), given, samples=0, form="paper")
        assert found == pytest.approx(expected, abs=1e-9)
        fixed = value(rank_distillation, row(-1.0, -2.0, 5.0, 4.0), given, samples=0)
        assert fixed == pytest.approx(math.tanh(0.2) * expected, abs=1e-9)

    def test_a_student_who_agrees_is_left_alone(self):
        assert value(rank_distillation, row(9.0, 8.0, 0.0), one([0, 1], [2.0, 1.0], progress=1.0), samples=0) == 0.0


class TestRejuvenated:
    def test_by_hand(self):
        """Teacher's top 2 is {0, 1}; student's {2, 0}; pool of 3 is {2, 0, 3}, all of it taken as I."""
        scores, given = row(1.0, -1.0, 2.0, 0.5, -2.0), one([0, 1], [3.0, 2.0], logz=torch.tensor([[math.log(40.0)]]))
        given = replace(given, popularity=torch.full((5,), 0.2))
        floor = math.log((40 - math.exp(3) - math.exp(2)) / 3)
        known = {0: 3.0, 1: 2.0, 2: floor, 3: floor}
        student = {0: 1.0, 1: -1.0, 2: 2.0, 3: 0.5}

        def divergence(items):
            p, q = softmax([known[i] for i in items]), softmax([student[i] for i in items])
            return -sum(a * math.log(b) for a, b in zip(p, q, strict=True))

        weight = math.exp(-5.0 * 1 / 2)  # of the teacher's two items one, 0, is in I
        expected = (1 - weight) * divergence([2, 0]) + weight * divergence([2, 0, 3, 1])
        assert value(rce, scores, given, sampled=0, pool=3) == pytest.approx(expected, abs=1e-5)

    def test_weights_multiply_the_teachers_probabilities(self):
        given = one([0, 1], [1.0, 0.0], weights=torch.tensor([[1.0, 4.0]]))
        p = [math.e / (math.e + 4), 4 / (math.e + 4)]
        q = softmax([2.0, 1.0])
        expected = -sum(a * math.log(b) for a, b in zip(p, q, strict=True))  # both sets are {0, 1}
        assert value(rce, row(2.0, 1.0, -9.0), given, sampled=0, pool=2) == pytest.approx(expected, abs=1e-6)

    def test_items_of_which_more_of_the_teachers_stand_below_are_drawn_the_rather(self):
        """z is 2 for item 2 and 0 for item 3; with spread 1 item 2 is drawn e^2 times as often."""
        scores, given = row(1.0, 0.9, 2.0, 0.0), one([0, 1], [1.0, 1.0])
        torch.manual_seed(0)
        settings = {"sampled": 1, "pool": 4, "spread": 1.0, "beta": 0.0}  # then it is the second part alone
        drawn = [round(value(rce, scores, given, **settings), 6) for _ in range(4000)]
        z = {0: 1, 1: 0, 2: 2, 3: 0}  # items of the teacher's with a lower score
        total = sum(math.exp(n + 1) for n in z.values())

        def loss_with(item):
            added = [i for i in (0, 1) if i != item and i not in (2, 0)]
            p = softmax([1.0 for _ in [item, *added]])
            q = softmax([float(scores[0, i]) for i in (item, *added)])
            return -sum(a * math.log(b) for a, b in zip(p, q, strict=True))

        expected = sum(math.exp(n + 1) / total * loss_with(i) for i, n in z.items())
        found = torch.tensor(drawn)
        assert abs(float(found.mean()) - expected) < 4 * float(found.std()) / math.sqrt(4000)

    def test_of_equal_tops_the_first_part_is_the_divergence_on_them(self):
        given = one([0, 1], [1.0, 0.0])
        scores = row(2.0, 1.0, -1.0)
        found = value(rce, scores, given, beta=1e6, sampled=0, pool=2)
        assert found == pytest.approx(value(listwise_kl, scores, given, tail="ignore", sharpening=1.0), abs=1e-9)


class TestOrder:
    def test_listmle_by_hand(self):
        """Context 0: 2, 0, 4 in this order; context 1: 1, 3."""
        expected = 0.0
        for context in range(2):
            chain = [SCORES[context][i] for i, _ in real(context)]
            terms = [math.log(sum(math.exp(s) for s in chain[k:])) - chain[k] for k in range(len(chain))]
            expected += sum(terms) / len(terms) / 2
        found = value(relaxed_listmle, student_scores(), target(), negatives=0)
        assert found == pytest.approx(expected, abs=1e-9)

    def test_other_items_come_after_the_list(self):
        """The only item that isn't listed is 2, and every usable draw is that one."""
        torch.manual_seed(0)
        found = value(relaxed_listmle, row(0.0, 1.0, 2.0), one([0, 1], [2.0, 1.0]), negatives=64)
        torch.manual_seed(0)
        count = int((torch.randint(3, (1, 64)) == 2).sum())
        rest = count * math.exp(2.0)
        expected = (math.log(1 + math.e + rest) - 0.0 + math.log(math.e + rest) - 1.0) / 2
        assert found == pytest.approx(expected, abs=1e-9)

    def test_one_item_without_others_has_nothing_to_learn(self):
        assert value(relaxed_listmle, student_scores(), target(), top=1, negatives=0) == pytest.approx(0.0, abs=1e-12)

    def test_the_paper_sums_and_weights_multiply(self):
        given = one([0, 1], [2.0, 1.0], weights=torch.tensor([[3.0, 1.0]]))
        expected = 3.0 * (math.log(1 + math.e) - 0.0)  # the second term is 0
        assert value(relaxed_listmle, row(0.0, 1.0), given, negatives=0) == pytest.approx(expected / 2, abs=1e-9)
        assert value(relaxed_listmle, row(0.0, 1.0), given, negatives=0, form="paper") == pytest.approx(expected)

    def test_the_paper_draws_the_list(self):
        assert is_random(partial(relaxed_listmle, form="paper", top=2, negatives=0), student_scores(), target())
        assert not is_random(partial(relaxed_listmle, top=2, negatives=0), student_scores(), target())


class TestPairs:
    PAIRED = one([0, 1, 2], [3.0, 1.0, 0.0])
    STUDENT = row(0.2, 1.0, -0.5, -4.0)

    def pairs(self):
        """Teacher's best is 0; the student's two hardest others are 1 and 2."""
        teacher = standardised([3.0, 1.0, 0.0])
        return [(0.2 - 1.0, teacher[0] - teacher[1]), (0.2 + 0.5, teacher[0] - teacher[2])]

    def test_margin_mse_by_hand(self):
        expected = sum((s - t / 2.0) ** 2 for s, t in self.pairs()) / 2
        found = value(margin_mse, self.STUDENT, self.PAIRED, top=1, negatives=2, temperature=2.0)
        assert found == pytest.approx(expected, abs=1e-9)

    def test_soft_bpr_by_hand(self):
        expected = sum(sigmoid(t) * softplus(-s) + (1 - sigmoid(t)) * softplus(s) for s, t in self.pairs()) / 2
        assert value(soft_bpr, self.STUDENT, self.PAIRED, top=1, negatives=2) == pytest.approx(expected, abs=1e-9)

    @pytest.mark.parametrize("loss", [margin_mse, soft_bpr])
    def test_an_items_weight_multiplies_its_pairs(self, loss):
        plain = value(loss, self.STUDENT, self.PAIRED, top=1, negatives=2)
        heavy = replace(self.PAIRED, weights=torch.tensor([[3.0, 1.0, 1.0]]))
        assert value(loss, self.STUDENT, heavy, top=1, negatives=2) == pytest.approx(3 * plain)

    def test_soft_bpr_of_a_certain_teacher_is_bpr(self):
        given = target(
            items=torch.tensor(LABEL)[:, None],
            scores=torch.full((2, 1), 500.0, dtype=torch.float64),
            logz=torch.full((2, 1), 500.0, dtype=torch.float64),
        )
        found = value(soft_bpr, student_scores(), given, top=1, negatives=9, standardise=False, temperature=1e-3)
        assert found == pytest.approx(value(bpr, student_scores(), given, negatives=0), abs=1e-9)

    def test_unkd_by_hand(self):
        """Stratum 0 lists 0, 2, 4 in this order, stratum 1 lists 1, 3."""
        strata = torch.tensor([0, 1, 0, 1, 0, 1])
        scores = row(0.1, 0.5, 0.4, -0.2, 1.0, 7.0)
        given = one([0, 1, 2, 3, 4], [5.0, 4.0, 3.0, 2.0, 1.0], strata=strata)
        p = [math.exp(-k / 2.0) for k in (1, 2, 3)]
        pairs = {(0, 2): p[0] * p[1], (0, 4): p[0] * p[2], (2, 4): p[1] * p[2]}
        s = scores[0].tolist()
        first = sum(w * softplus(s[j] - s[i]) for (i, j), w in pairs.items()) / sum(pairs.values())
        second = softplus(s[3] - s[1])
        exact = value(ALL_PAIRS, scores, given, spread=2.0)
        assert exact == pytest.approx((first + second) / 2, abs=1e-9)
        heavy = replace(given, weights=torch.tensor([[1.0, 4.0, 1.0, 1.0, 1.0]]))
        assert value(ALL_PAIRS, scores, heavy, spread=2.0) == pytest.approx((first + 4 * second) / 2, abs=1e-9)
        mean, error = mean_of(unkd, scores, given, spread=2.0, pairs=200)
        assert abs(mean - exact) < 4 * error

    def test_unkd_compares_nothing_across_strata(self):
        given = one([0, 1], [2.0, 1.0], strata=torch.tensor([0, 1, 0]))
        assert value(unkd, row(-9.0, 9.0, 0.0), given) == 0.0


LISTED = [listwise_kl, stratified_kl, soft_bce, rank_distillation, rce, relaxed_listmle, margin_mse, soft_bpr, unkd]


@pytest.mark.parametrize("loss", LISTED, ids=lambda f: f.__name__)
class TestEveryTeacherLoss:
    def test_weights_of_one_change_nothing(self, loss):
        torch.manual_seed(0)
        plain = value(loss, student_scores(), target())
        torch.manual_seed(0)
        ones = value(loss, student_scores(), target(weights=torch.ones(2, 3, dtype=torch.float64)))
        assert ones == pytest.approx(plain, abs=1e-12)

    def test_uneven_weights_change_something(self, loss):
        torch.manual_seed(0)
        plain = value(loss, student_scores(), target())
        torch.manual_seed(0)
        uneven = value(loss, student_scores(), target(weights=torch.tensor([[4.0, 0.1, 1.0], [0.2, 3.0, 1.0]])))
        assert abs(uneven - plain) > 1e-3

    def test_without_a_teacher_it_says_so(self, loss):
        with pytest.raises(UserError, match=f"{loss.__name__} needs a teacher"):
            loss(student_scores(), SoftTarget(torch.tensor(LABEL), strata=torch.tensor(STRATA)))

    def test_a_list_longer_than_what_is_unseen(self, loss):
        """Only one item is left for the student; the list is padded to more than the catalogue."""
        scores = row(0.3, -torch.inf, -torch.inf).requires_grad_()
        given = one([0, *([-1] * 7)], [1.0, *([-6e4] * 7)], strata=torch.tensor([0, 0, 1]))
        found = loss(scores, given)
        found.backward()
        assert torch.isfinite(found) and torch.isfinite(scores.grad).all()

    def test_an_item_that_the_student_masks_is_no_answer(self, loss):
        settings = {"samples": 0, "negatives": 0} if loss is soft_bce else {}
        masked = student_scores().index_fill(1, torch.tensor([ITEMS[0][1]]), -torch.inf)
        found = value(loss, masked[:1], one([2, 0, 4], [1.2, 0.4, -0.5], strata=torch.tensor(STRATA)), **settings)
        assert math.isfinite(found)

    def test_half_precision_teachers_and_single_precision_students(self, loss):
        given = target(scores=torch.tensor([[1.2, 0.4, -0.5], [0.9, -0.1, -6e4]]).half().float())
        scores = student_scores().float().requires_grad_()
        found = loss(scores, given)
        found.backward()
        assert found.dtype == torch.float32 and torch.isfinite(scores.grad).all()
