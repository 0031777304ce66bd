"""Saving and loading students: safetensors and JSON, no pickle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from distill.errors import UserError
from distill.plugins import resolve
from students.extended import Extended


def build_student(
    name: str, arguments: dict[str, Any], n_items: int, item_vectors: Tensor | None, seed: int
) -> nn.Module:
    """A new student by name, with weights that depend on the seed alone.

    Args:
        name: Short name or dotted path.
        arguments: The student's own settings.
        n_items: Catalogue size N.
        item_vectors: Text vectors (N, T) or None.
        seed: Seed of the initial weights.
    """
    torch.manual_seed(seed)
    return resolve("student", name)(n_items=n_items, item_vectors=item_vectors, **arguments)


def extend(student: nn.Module, extensions: dict[str, Any]) -> Extended:
    """A student with a user side and heads around it.

    Args:
        student: The student itself.
        extensions: Arguments of `Extended`, plain values that `save_student` keeps.
    """
    whole = Extended(student, **extensions)
    whole.extensions = extensions
    return whole


def save_student(
    folder: Path,
    name: str,
    arguments: dict[str, Any],
    n_items: int,
    weights: dict[str, Tensor],
    item_vectors: Tensor | None,
    extensions: dict[str, Any] | None = None,
) -> None:
    """Writes student.json, model.safetensors and, where the student starts from text, item_vectors.safetensors."""
    about = {"name": name, "arguments": arguments, "n_items": n_items}
    about |= {"extensions": extensions} if extensions else {}
    (folder / "student.json").write_text(json.dumps(about, indent=2))
    separate = {
        name: value.detach().clone().contiguous() for name, value in weights.items()
    }  # tied tables share memory
    save_file(separate, folder / "model.safetensors")
    if item_vectors is not None:
        save_file({"vectors": item_vectors.float().contiguous()}, folder / "item_vectors.safetensors")


def served(
    student: Any, weights: dict[str, Tensor], item_vectors: Tensor | None
) -> tuple[dict[str, Tensor], Tensor | None]:
    """What is saved of a trained student: its weights and text vectors, or what it offers as `served_state` alone."""
    if not hasattr(student, "served_state"):
        return weights, item_vectors
    student.load_state_dict(weights)
    return student.served_state(), None


def load_student(folder: Path) -> nn.Module:
    """The student that `save_student` wrote, in evaluation mode.

    Raises:
        UserError: The folder holds no student, or its weights don't fit its settings.
    """
    if not (folder / "student.json").is_file():
        raise UserError(f"{folder} holds no student (no student.json). Make one with: distill train-student CONFIG")
    about = json.loads((folder / "student.json").read_text())
    vectors = folder / "item_vectors.safetensors"
    text = load_file(vectors)["vectors"] if vectors.is_file() else None
    student = build_student(about["name"], about["arguments"], about["n_items"], text, seed=0)
    if about.get("extensions"):
        student = extend(student, about["extensions"])
    try:
        student.load_state_dict(load_file(folder / "model.safetensors"))
    except RuntimeError as error:
        raise UserError(f"{folder}: the weights don't fit the settings in student.json: {error}") from error
    return student.eval()
