"""Losses that draw the student's vectors towards the teacher's through a learned map: FitNet and DE.

Matching a text model's vectors directly costs accuracy; through a map that is trained along, it may help.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from distill.objectives.knowledge import Knowledge, Representation
from distill.objectives.vectors import Pair, Side, feature_distance
from distill.soft.target import SoftTarget


class FeatureFitnet(nn.Module):
    """Squared distance of the student's vectors, mapped linearly, to the teacher's.

    L = |P(h_s) - sg(h_t)|^2 / d, a mean over contexts or items; P is learned, sg stops the gradient.

    References:
        Romero et al. 2015, "FitNets: Hints for thin deep nets", eq. 3.

    Requirements:
        For contexts a store with the teacher's vectors (`scores.hidden`); for items a teacher with item vectors.

    Inputs:
        representation: Uses `query`, or `table`.
        target: Uses `hidden` for contexts.

    Relations:
        `FeatureExperts` with one expert, which has a hidden layer besides.

    Example:
        >>> knowledge = Knowledge(4, 3, 1, strata=torch.zeros(3), popularity=torch.ones(3) / 3, hidden=6)
        >>> FeatureFitnet(knowledge).map.weight.shape
        torch.Size([6, 4])
    """

    def __init__(self, knowledge: Knowledge, side: Side = "contexts", samples: int = 512) -> None:
        """Makes the map.

        Args:
            knowledge: Gives the widths, and item vectors.
            side: Whose vectors: the contexts' or the items'.
            samples: Items drawn for each batch; 0 takes all.

        Raises:
            UserError: The teacher's vectors aren't there.
        """
        super().__init__()
        self.pair = Pair(knowledge, side, samples, "feature_fitnet")
        self.map = nn.Linear(knowledge.dim, self.pair.width)

    def forward(self, representation: Representation, target: SoftTarget) -> Tensor:
        """The loss, a scalar."""
        student, teacher = self.pair(representation, target)
        return feature_distance(self.map(student), teacher)


class FeatureExperts(nn.Module):
    """Distillation experts: of several maps one is chosen for each vector, by the teacher's vector.

    L = |sum_m g_m E_m(h_s) - sg(h_t)|^2 / d. E_m are small networks with one hidden layer, g a Gumbel-softmax over a
    linear map of h_t, whose temperature falls geometrically during the training.

    References:
        Kang et al. 2020, "DE-RRD: A Knowledge Distillation Framework for Recommender System", eq. 1 to 5. Its experts
        are (d_s + d_t) / 2 wide; these are narrower by default, which costs a tenth.

    Requirements:
        For contexts a store with the teacher's vectors (`scores.hidden`); for items a teacher with item vectors. Gumbel
        noise comes from torch's global generator; in evaluation mode there is none.

    Inputs:
        representation: Uses `query`, or `table`.
        target: Uses `hidden` for contexts, and `progress`.

    Relations:
        `FeatureFitnet` has one linear map for all.

    Example:
        >>> knowledge = Knowledge(4, 3, 1, strata=torch.zeros(3), popularity=torch.ones(3) / 3, hidden=6)
        >>> FeatureExperts(knowledge, experts=5, width=2).inner.out_features
        10
    """

    def __init__(
        self,
        knowledge: Knowledge,
        experts: int = 30,
        width: int = 16,
        start_temperature: float = 1.0,
        end_temperature: float = 0.1,
        side: Side = "contexts",
        samples: int = 512,
    ) -> None:
        """Makes the experts.

        Args:
            knowledge: Gives the widths, and item vectors.
            experts: M.
            width: Hidden width of each expert.
            start_temperature, end_temperature: Of the Gumbel-softmax, at the start and end of the training.
            side: Whose vectors: the contexts' or the items'.
            samples: Items drawn for each batch; 0 takes all.

        Raises:
            UserError: The teacher's vectors aren't there.
        """
        super().__init__()
        self.pair = Pair(knowledge, side, samples, "feature_experts")
        self.experts, self.start, self.end = experts, start_temperature, end_temperature
        self.choice = nn.Linear(self.pair.width, experts)
        self.inner = nn.Linear(knowledge.dim, experts * width)
        self.outer = nn.Linear(experts * width, self.pair.width, bias=False)
        self.offset = nn.Linear(experts, self.pair.width, bias=False)  # the experts' biases

    def forward(self, representation: Representation, target: SoftTarget) -> Tensor:
        """The loss, a scalar."""
        student, teacher = self.pair(representation, target)
        temperature = self.start ** (1 - target.progress) * self.end**target.progress
        logits = self.choice(functional.normalize(teacher, dim=-1))
        if self.training:
            gate = functional.gumbel_softmax(logits, temperature, dim=-1)
        else:
            gate = torch.softmax(logits / temperature, -1)
        hidden = torch.relu(self.inner(student)).unflatten(-1, (self.experts, -1))  # (R, M, width)
        mixed = self.outer((gate[:, :, None] * hidden).flatten(1)) + self.offset(gate)  # sum_m g_m E_m in one product
        return feature_distance(mixed, teacher)
