"""Low-rank adapters: a pretrained body stays as it is, and small matrices beside its own learn."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel as Body

from distill.errors import UserError
from distill.plugins import nearest
from teachers.backbone import freeze, layers_of
from teachers.quantised import keep_out

AUTO = "auto"


@dataclass(frozen=True)
class Adapter:
    """The setting `adapter` of a member.

    Attributes:
        rank: Inner dimension of each pair of matrices.
        alpha: The product is multiplied by alpha / rank.
        dropout: On the adapters' input in training.
        targets: Names of the linear layers that get adapters, such as q_proj; `auto` takes all inside the layers.
        quantised: The base is kept in 4 bits (`teachers.quantised`), where the member offers that.
    """

    rank: int = 8
    alpha: int = 16
    dropout: float = 0.0
    targets: list[str] | str = AUTO
    quantised: bool = False


def check_adapter(settings: dict[str, Any] | None, quantised: bool = False) -> Adapter | None:
    """Settings of an adapter, or None where there is none.

    Args:
        settings: As written in a config.
        quantised: Whether the member offers a base in 4 bits.

    Raises:
        UserError: A key is unknown, a value is out of range, or a 4-bit base is asked of a member without.
    """
    if settings is None:
        return None
    for key in settings:
        if key not in Adapter.__dataclass_fields__:
            raise UserError(f"adapter has no setting '{key}'" + nearest(key, Adapter.__dataclass_fields__))
    adapter = Adapter(**settings)
    if not isinstance(adapter.rank, int) or adapter.rank < 1:
        raise UserError(f"adapter.rank is {adapter.rank!r}; give a whole number from 1, or 'adapter: null' for none.")
    if not 0 <= adapter.dropout < 1:
        raise UserError(f"adapter.dropout is {adapter.dropout}; give a share from 0 to below 1.")
    if adapter.quantised and not quantised:
        raise UserError("adapter.quantised: a base in 4 bits is for text_tower alone; set it to false here.")
    return adapter


def outfit(body: Body, adapter: Adapter | None, frozen_layers: int, seed: int) -> None:
    """Says in place what of a body is to train: adapters above `frozen_layers`, or those layers themselves.

    Raises:
        UserError: As `add_lora` and `teachers.backbone.freeze` do.
    """
    if adapter is None:
        freeze(body, frozen_layers)
        return
    add_lora(body, adapter, frozen_layers, seed)
    if adapter.quantised:
        keep_out(body)


def add_lora(body: Body, adapter: Adapter, frozen_layers: int = 0, seed: int = 0) -> Body:
    """Puts adapters into a body in place; everything but the adapters is frozen.

    A fresh adapter changes nothing: its second matrix starts at zero.

    Args:
        body: Of any family whose layers have linear (or GPT-2's transposed linear) modules.
        adapter: Settings.
        frozen_layers: So many lowest layers get none.
        seed: Of the adapters' first matrices.

    Returns:
        The same body.

    Raises:
        UserError: A target isn't the name of a linear layer; there are not that many layers; peft isn't installed.

    References:
        Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models" (2022), section 4.1.
    """
    if importlib.util.find_spec("peft") is None:
        raise UserError("adapter needs the package peft: pip install 'taildistill[lora]'")
    from peft import LoraConfig, inject_adapter_in_model

    layers = layers_of(body)
    if layers is None or frozen_layers >= len(layers):
        found = "no stack of layers" if layers is None else f"{len(layers)} layers"
        raise UserError(f"frozen_layers is {frozen_layers}, but the backbone has {found}; at least one must train.")
    chosen = [layer for layer in layers[max(0, frozen_layers) :]]
    names = _targets(body, chosen, adapter.targets)
    body.requires_grad_(False)
    transposed = any(type(module).__name__ == "Conv1D" for module in body.modules())
    config = LoraConfig(
        r=adapter.rank,
        lora_alpha=adapter.alpha,
        lora_dropout=adapter.dropout,
        target_modules=names,
        fan_in_fan_out=transposed,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(config, body)
    return body


def merge_lora(body: Body) -> Body:
    """Adds each adapter's product to the matrix beside it and takes the adapters out, in place; returns the body."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    found = [(name, module) for name, module in body.named_modules() if isinstance(module, BaseTunerLayer)]
    for name, module in found:
        module.merge(safe_merge=True)
        parent, _, own = name.rpartition(".")
        setattr(body.get_submodule(parent), own, module.get_base_layer())
    if hasattr(body, "peft_config"):
        del body.peft_config
    return body


def _targets(body: Body, layers: list[nn.Module], targets: list[str] | str) -> list[str]:
    """Full names of the linear modules inside these layers that have one of the wanted names."""
    inside = {id(module) for layer in layers for module in layer.modules()}
    linear = {
        name
        for name, module in body.named_modules()
        if id(module) in inside and (isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D")
    }
    ends = {name.rpartition(".")[2] for name in linear}
    if isinstance(targets, str):
        if targets != AUTO:
            raise UserError(f"adapter.targets is '{targets}'; give '{AUTO}' or a list of names out of {sorted(ends)}.")
        return sorted(linear)
    unknown = [target for target in targets if target not in ends]
    if unknown or not targets:
        raise UserError(
            f"adapter.targets names {unknown or 'nothing'}; the backbone's linear layers are {', '.join(sorted(ends))}."
        )
    return sorted(name for name in linear if name.rpartition(".")[2] in targets)
