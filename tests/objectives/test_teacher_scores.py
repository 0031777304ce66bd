"""What is known of the teacher's scores, and what is made of them: look-up, strata, reliability, popularity."""

import math
from dataclasses import replace
from functools import partial

import pytest
import torch
from loss_samples import STRATA, one, row, student_scores, target

from distill.contracts.loss import _problem
from distill.errors import UserError
from distill.objectives.hard import cross_entropy
from distill.objectives.listwise import listwise_kl
from distill.objectives.popularity import adjust
from distill.objectives.reliability import reliability
from distill.objectives.strata import within_strata
from distill.soft.target import SoftTarget


class TestScoreOf:
    ITEMS = torch.tensor([[3, 0, 2, 1, -1]])

    def test_a_whole_row_comes_first(self):
        given = one([0], [9.0], dense=row(1.0, 2.0, -torch.inf, 4.0))
        assert given.score_of(self.ITEMS)[0, :4].tolist() == [4.0, 1.0, -math.inf, 2.0]

    def test_then_the_list_then_the_tail_then_the_rest(self):
        """e^logz = 20, the list has e + e^2, one of five unseen items is in the tail, and three share what is left."""
        given = one(
            [0, 3],
            [2.0, 1.0],
            logz=torch.full((1, 1), math.log(20.0), dtype=torch.float64),
            tail_items=torch.tensor([[2, 2]]),
            tail_scores=row(0.7, 0.7),
            popularity=torch.full((5,), 0.2),
        )
        rest = math.log((20.0 - math.e - math.e**2) / 3)
        assert given.score_of(self.ITEMS)[0, :4].tolist() == pytest.approx([1.0, 2.0, 0.7, min(rest, 1.0)])
        many = torch.tensor([102])
        rest = math.log((20.0 - math.e - math.e**2) / 100)
        assert given.score_of(self.ITEMS, many)[0, :4].tolist() == pytest.approx([1.0, 2.0, 0.7, rest])

    def test_no_rest_is_above_the_last_of_the_list(self):
        given = one([0], [0.0], logz=torch.full((1, 1), 9.0), popularity=torch.full((4,), 0.25))
        assert given.score_of(torch.tensor([[2]])).item() == 0.0

    def test_a_list_that_holds_all_the_mass_leaves_a_finite_rest(self):
        given = one([0], [3.0], logz=torch.full((1, 1), 3.0, dtype=torch.float64), popularity=torch.full((4,), 0.25))
        assert given.score_of(torch.tensor([[2]])).item() == pytest.approx(3.0 + math.log(1e-6 / 3))

    def test_without_a_normaliser_it_is_the_last_score(self):
        assert one([0, 1], [3.0, 1.0]).score_of(torch.tensor([[2]])).item() == 1.0

    def test_a_context_without_an_answer_is_finite(self):
        given = one([-1], [-6e4], logz=torch.full((1, 1), -torch.inf), popularity=torch.full((4,), 0.25))
        assert torch.isfinite(given.score_of(torch.tensor([[2, -1]]))).all()

    def test_without_a_teacher_it_says_so(self):
        with pytest.raises(UserError, match="needs a teacher's scores"):
            SoftTarget(torch.tensor([0])).score_of(torch.tensor([[2]]))


class TestStrata:
    def test_by_hand(self):
        """Labels 2 and 3: stratum 0 is {0, 2}, where context 1 has no label; stratum 1 is {1, 3, 4}."""
        first = math.log(math.exp(0.5) + math.exp(2.0)) - 2.0
        second = math.log(math.exp(0.2) + math.exp(0.7)) - 0.7  # item 4 is seen
        found = within_strata(cross_entropy, student_scores(), target())
        assert float(found) == pytest.approx((first + second) / 2, abs=1e-9)

    @pytest.mark.parametrize("loss", [listwise_kl, partial(listwise_kl, tail="ignore", direction="jsd")])
    def test_it_is_the_same_as_masking_the_other_strata(self, loss):
        scores, _, seen, given = _problem(23, 6)
        scores, expected = scores.masked_fill(seen, -torch.inf), []
        for group in range(2):
            outside = given.strata != group
            items = given.items.masked_fill(outside[given.items], -1)
            order = (items < 0).int().argsort(dim=1, stable=True)
            label = torch.where((given.label >= 0) & (given.strata[given.label] == group), given.label, -1)
            part = replace(given, label=label, items=items.gather(1, order), scores=given.scores.gather(1, order))
            expected.append(float(loss(scores.masked_fill(outside, -torch.inf), part)))
        assert float(within_strata(loss, scores, given)) == pytest.approx(sum(expected) / 2, abs=1e-9)

    def test_what_a_loss_sees(self):
        seen = []

        def spy(scores, part):
            seen.append((scores, part))
            return scores.exp().sum()

        given = target(weights=torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]))
        within_strata(spy, student_scores(), given)
        scores, part = seen[1]  # items 1, 3, 4 become 0, 1, 2
        assert scores.tolist() == student_scores()[:, [1, 3, 4]].tolist()
        assert part.label.tolist() == [-1, 1]
        assert part.items.tolist() == [[2, -1, -1], [0, 1, -1]]
        assert part.scores[0, 0] == -0.5 and part.scores[1, :2].tolist() == [0.9, -0.1]
        assert part.weights[0, 0] == 3.0 and part.weights[1, :2].tolist() == [4.0, 5.0]
        assert part.popularity.tolist() == [0.1, 0.15, 0.05]

    def test_the_normaliser_of_a_stratum(self):
        """With a whole row it is exact; else a stratum has its part, by number, of the mass outside the list."""
        scores, teacher, seen, given = _problem(23, 6)
        masked = scores.masked_fill(seen, -torch.inf)
        found = []

        def keep(_, part):
            found.append(part)
            return scores.sum()

        within_strata(keep, masked, given)
        within_strata(keep, masked, replace(given, dense=teacher.masked_fill(seen, -torch.inf)))
        for place, temperature in enumerate(given.temperatures):
            total = sum(part.logz[:, place].exp() for part in found[:2])
            assert total.tolist() == pytest.approx(given.logz[:, place].exp().tolist(), rel=1e-6)
            for group, part in enumerate(found[2:]):
                inside = ~seen & (given.strata == group)
                exact = (teacher / temperature).masked_fill(~inside, -torch.inf).logsumexp(-1)
                assert part.logz[:, place].tolist() == pytest.approx(exact.tolist())
        whole = given.remainder((~seen).sum(-1))  # an item outside the lists scores the same as outside strata
        inside = found[0].remainder((~seen & (given.strata == 0)).sum(-1))
        assert inside.tolist() == pytest.approx(whole.tolist(), rel=1e-6)

    def test_strata_without_an_answer_do_not_count(self):
        only_first = target(label=torch.tensor([2, -1]), items=None, scores=None, logz=None)
        expected = math.log(math.exp(0.5) + math.exp(2.0)) - 2.0
        assert float(within_strata(cross_entropy, student_scores(), only_first)) == pytest.approx(expected)
        nothing = replace(only_first, label=torch.tensor([-1, -1]))
        assert float(within_strata(cross_entropy, student_scores(), nothing)) == 0.0

    def test_without_strata_it_says_so(self):
        with pytest.raises(UserError, match="popularity strata"):
            within_strata(cross_entropy, student_scores(), target(strata=None))


class TestReliability:
    def test_by_hand(self):
        """The student's best two of context 0 are 2 and 4; of context 1, with two answers, 3 and 1."""
        parts = []
        for logz, teacher, shared in ((1.9, (1.2, 0.4, -0.5), (1, 1, 1)), (1.6, (0.9, -0.1), (1, 1))):
            for k, (t, found) in enumerate(zip(teacher, shared, strict=True), 1):
                parts.append(0.3 * math.exp(-k / 2.0) + 0.5 * math.exp(t - logz) + 0.1 * found)
        mean = sum(parts) / 5
        found = reliability(student_scores(), target(), beta=2.0)
        assert found[0].tolist() + found[1, :2].tolist() == pytest.approx([p / mean for p in parts])
        assert found[1, 2] == 0.0

    def test_items_that_the_student_finds_too_count_for_more(self):
        given = one([0, 1, 2], [1.0, 1.0, 1.0])
        found = reliability(row(0.0, 5.0, 1.0, 4.0), given, position=0.0, confidence=0.0, overlap=1.0, top=2)
        assert found[0].tolist() == [0.0, 3.0, 0.0]  # the student's best two are 1 and 3

    def test_confident_contexts_count_for_more(self):
        given = target(items=torch.tensor([[2], [1]]), scores=torch.ones(2, 1), logz=torch.tensor([[1.1], [4.0]]))
        found = reliability(student_scores(), given, position=0.0, confidence=1.0, overlap=0.0)
        assert float(found[0] / found[1]) == pytest.approx(math.exp(4.0 - 1.1), rel=1e-5)
        assert float(found.mean()) == pytest.approx(1.0)

    def test_no_gradient_flows_into_the_scores(self):
        assert not reliability(student_scores().requires_grad_(), target()).requires_grad

    def test_padding_and_contexts_without_an_answer(self):
        scores, _, seen, given = _problem(23, 6)
        scores = scores.masked_fill(seen, -torch.inf)
        padded = replace(
            given,
            items=torch.cat([given.items, torch.full((4, 2), -1)], 1),
            scores=torch.cat([given.scores, torch.full((4, 2), -6e4)], 1),
        )
        plain = reliability(scores, given)
        found = reliability(scores, padded)
        assert torch.allclose(found[:, :6], plain) and not found[:, 6:].any()
        nothing = replace(given, items=torch.full_like(given.items, -1))
        assert not reliability(scores, nothing).any()


class TestAdjust:
    SHARE = torch.tensor([0.6, 0.1, 0.3], dtype=torch.float64)  # 6, 1 and 3 events

    def test_by_hand(self):
        given = one(
            [0, 2, -1],
            [2.0, 1.5, -6e4],
            popularity=self.SHARE,
            weights=torch.tensor([[5.0, 7.0, 0.0]]),
            tail_items=torch.tensor([[1]]),
            tail_scores=row(0.3),
        )
        found = adjust(given, 1.0)
        assert found.items.tolist() == [[2, 0, -1]]
        assert found.scores[0, :2].tolist() == pytest.approx([1.5 - math.log(4), 2.0 - math.log(7)])
        assert found.weights.tolist() == [[7.0, 5.0, 0.0]]
        assert found.tail_scores.item() == pytest.approx(0.3 - math.log(2))

    def test_a_whole_row_gives_the_exact_normaliser(self):
        given = one([0], [2.0], popularity=self.SHARE, dense=row(2.0, -torch.inf, 1.0), logz=row(0.0))
        found = adjust(given, 0.5)
        wanted = math.log(math.exp(2.0) / math.sqrt(7) + math.e / math.sqrt(4))
        assert found.logz.item() == pytest.approx(wanted) and found.dense[0, 1] == -math.inf

    def test_the_mass_outside_the_list_is_lowered_as_an_average_item(self):
        given = one([0], [2.0], popularity=self.SHARE, logz=row(math.log(math.exp(2.0) + 5.0)))
        mean = (1 / 7 + 1 / 2 + 1 / 4) / 3
        assert adjust(given, 1.0).logz.item() == pytest.approx(math.log(math.exp(2.0) / 7 + 5.0 * mean))

    def test_nothing_at_zero(self):
        given = target()
        assert adjust(given, 0.0) is given

    def test_without_popularity_it_says_so(self):
        with pytest.raises(UserError, match="popularity"):
            adjust(target(popularity=None), 0.5)

    def test_inside_strata_it_moves_the_loss(self):
        loss = partial(within_strata, listwise_kl, student_scores())
        given = target(strata=torch.tensor(STRATA))
        assert float(loss(adjust(given, 0.5))) != pytest.approx(float(loss(given)), abs=1e-3)
