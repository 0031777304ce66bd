"""Language models whose frozen matrices are kept in 4 bits while low-rank adapters beside them learn (QLoRA)."""

from __future__ import annotations

import importlib.util
from typing import Any

import torch
from torch import Tensor, nn
from transformers import BitsAndBytesConfig
from transformers import PreTrainedModel as Body

from distill.errors import UserError
from distill.job import HALVES
from teachers.backbone import fresh

GROUP = "lora_"  # in the names of adapters


def four_bits(precision: str, device: torch.device) -> dict[str, Any]:
    """What `open_backbone` hands to transformers so that a body's linear layers come in 4 bits.

    NormalFloat4 in blocks of 64, whose scales are quantised too; embeddings, norms and biases stay float32.

    Args:
        precision: Products are computed in it: "bf16", "fp16" or "fp32".
        device: Where the body is to be.

    Raises:
        UserError: bitsandbytes isn't installed.

    References:
        Dettmers et al., "QLoRA: Efficient Finetuning of Quantized LLMs" (2023), section 3.
    """
    if importlib.util.find_spec("bitsandbytes") is None:
        raise UserError(
            "adapter.quantised needs the package bitsandbytes: pip install 'taildistill[qlora]'. Without it, set "
            "quantised: false and use frozen_layers, gradient_checkpointing or a smaller body."
        )
    settings = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=HALVES.get(precision, torch.float32),
    )
    place: str | int = device.type  # transformers takes the number in "cpu:0", as launches have it, for a GPU's
    if device.type == "cuda":
        place = torch.cuda.current_device() if device.index is None else device.index
    return {"quantization_config": settings, "device_map": {"": place}}


def keep_out(body: Body) -> None:
    """Makes a body's 4-bit layers ready for training, in place: they stay out of its state dict.

    They never change, so that checkpoints and best weights hold the adapters, the embeddings and the norms alone.
    """
    for module in _quantised(body).values():
        for name in ("_save_to_state_dict", "_load_from_state_dict"):
            setattr(module, name, _nothing)
        # Packed for this CPU's instructions at the first evaluation, they would pass no gradient from then on.
        module.support_avx512bf16_for_cpu = False


def plain(body: Body) -> Body:
    """A body of float32 matrices that computes the same: 4-bit layers unpacked, adapters added.

    Nothing is rounded to 4 bits again, so a merged tower scores as the one that was trained, and is read without peft
    and bitsandbytes.

    Args:
        body: From `open_backbone` with `four_bits`, with adapters or without; spent afterwards.
    """
    from bitsandbytes.functional import dequantize_4bit

    state: dict[str, Tensor] = {name: value for name, value in body.state_dict().items() if GROUP not in name}
    for name, module in _quantised(body).items():
        weight = dequantize_4bit(module.weight.data, module.weight.quant_state).float()
        place = name.removesuffix(".base_layer")
        if place != name:
            weight = weight + body.get_submodule(place).get_delta_weight("default").float()  # type: ignore[operator]
        turned = getattr(module, "source_cls", nn.Linear).__name__ == "Conv1D"
        state[f"{place}.weight"] = weight.T if turned else weight
        if module.bias is not None:
            state[f"{place}.bias"] = module.bias.data.float()
    for name in ("quantization_config", "_pre_quantization_dtype"):
        if hasattr(body.config, name):
            delattr(body.config, name)
    found = fresh(body)
    found.load_state_dict({name: value.cpu() for name, value in state.items()})
    return found


def _quantised(body: Body) -> dict[str, Any]:
    """The 4-bit layers by name."""
    from bitsandbytes.nn import Linear4bit

    return {name: module for name, module in body.named_modules() if isinstance(module, Linear4bit)}


def _nothing(*_: Any, **__: Any) -> None:
    """In the place of what writes a layer into a state dict, or reads it."""
