"""What a sequence body's item vectors and pools start from."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from distill.errors import UserError
from distill.plugins import nearest
from teachers.protocol import Inputs
from teachers.text_space import TextSpace, centred, principal

RANDOM_WIDTH = 64


def start(inputs: Inputs, vectors: str, width: int) -> tuple[Tensor, dict[str, Tensor], dict[str, Any]]:
    """Item vectors to start from and, where an earlier `text_space` is named, all other weights of its model.

    Args:
        inputs: What the member is fitted on.
        vectors: Name of an earlier member; "": random vectors.
        width: Reduces the vectors to so many principal components; 0 keeps them whole.

    Returns:
        Unit vectors (N, d), weights by name, and settings of `SequenceModel` that they need.

    Raises:
        UserError: There is no earlier member of this name with item vectors.
    """
    if not vectors:
        return functional.normalize(torch.randn(inputs.dataset.n_items, width or RANDOM_WIDTH), dim=-1), {}, {}
    earlier = inputs.members.get(vectors)
    if earlier is not None and isinstance(earlier.member, TextSpace):
        space = earlier.member.model
        assert space is not None
        state = {name: value.cpu().clone() for name, value in space.state_dict().items()}
        return state.pop("text"), state, {"decays": (1.0,) * len(space.mix), "mlp": space.mlp is not None}
    if vectors not in inputs.vectors:
        raise UserError(
            f"'vectors: {vectors}' names no earlier member with item vectors"
            f"{nearest(vectors, inputs.vectors) if inputs.vectors else ' (there are none yet)'}."
        )
    text = centred(inputs.vectors[vectors].float().cpu())
    return (principal(text, width) if 0 < width < text.shape[1] else text), {}, {}
