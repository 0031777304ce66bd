"""Vectors of texts that a pretrained model encoded before, kept by the content of model and text."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase as BodyTokenizer

from distill.progress import is_main_process, say

FOLDER = "TAILDISTILL_CACHE"  # environment variable
KEY = 16  # bytes of a text's digest


class TextCache:
    """Unit vectors of texts under one model, pooling, cut and precision.

    Each call of `put` writes one safetensors file with the digests and vectors of new texts, under a temporary name
    first, so that several runs may share the folder. A file that can't be read is left out.
    """

    def __init__(self, model: str, root: Path | None = None) -> None:
        """Opens the cache of one model.

        Args:
            model: See `model_digest`.
            root: Where all caches are; by default the folder in the environment variable TAILDISTILL_CACHE, or
                ~/.cache/taildistill.
        """
        self.folder = (root or cache_root()) / "text_vectors" / model

    def get(self, texts: list[str]) -> tuple[Tensor | None, np.ndarray]:
        """Vectors of the texts that are known, and which ones are.

        Returns:
            (N, d) with zero rows for unknown texts, or None where none is known; and a mask (N,).
        """
        known = np.zeros(len(texts), bool)
        vectors: Tensor | None = None
        wanted = _digests(texts)
        for file in sorted(self.folder.glob("*.safetensors")):
            try:
                part = load_file(file)
                keys, rows = part["keys"].numpy().view(f"S{KEY}").reshape(-1), part["vectors"]
            except (SafetensorError, OSError, KeyError, ValueError):
                continue
            place = np.searchsorted(keys, wanted).clip(max=max(0, len(keys) - 1))
            found = np.flatnonzero(keys[place] == wanted)
            vectors = torch.zeros(len(texts), rows.shape[1]) if vectors is None else vectors
            vectors[found] = rows[torch.from_numpy(place[found])]
            known[found] = True
        return vectors, known

    def put(self, texts: list[str], vectors: Tensor) -> None:
        """Keeps vectors (N, d) of new texts; a folder that can't be written is said and goes without."""
        keys, first = np.unique(_digests(texts), return_index=True)
        name = hashlib.sha256(keys.tobytes()).hexdigest()[:32]
        unfinished = self.folder / f"{name}.{os.getpid()}.part"
        table = torch.from_numpy(keys.view(np.uint8).reshape(-1, KEY).copy())
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            save_file({"keys": table, "vectors": vectors[torch.from_numpy(first)].contiguous()}, unfinished)
            unfinished.replace(self.folder / f"{name}.safetensors")
        except (OSError, SafetensorError) as error:
            say(f"text vectors aren't kept in {self.folder}: {error}. Set {FOLDER} to a folder that can be written.")


def cached_vectors(cache: TextCache, texts: list[str], encode: Callable[[Tensor], Tensor]) -> Tensor:
    """Vectors (N, d) of all texts: those that the cache has, and the rest by `encode`, which are then kept.

    Args:
        cache: Of the model that `encode` runs.
        texts: N texts; equal ones are encoded once.
        encode: Text numbers (M,) to vectors (M, d).
    """
    vectors, known = cache.get(texts)
    unknown = np.flatnonzero(~known)
    if len(unknown):
        _, first, same = np.unique([texts[row] for row in unknown], return_index=True, return_inverse=True)
        rows = unknown[first]
        made = encode(torch.from_numpy(rows))
        if is_main_process():
            cache.put([texts[row] for row in rows], made)
        vectors = torch.zeros(len(texts), made.shape[1]) if vectors is None else vectors
        vectors[torch.from_numpy(unknown)] = made[torch.from_numpy(same)]
    say(f"text vectors: {int(known.sum())} of {len(texts)} from {cache.folder}")
    assert vectors is not None, "there is at least one text"
    return vectors


def cache_root() -> Path:
    """The folder of all caches."""
    named = os.environ.get(FOLDER)
    return Path(named).expanduser() if named else Path.home() / ".cache" / "taildistill"


def model_digest(body: nn.Module, tokenizer: BodyTokenizer, settings: Sequence[object]) -> str:
    """A name for what turns a text into a vector: weights, their shape of network, tokenizer and settings."""
    state = hashlib.sha256(json.dumps(list(settings)).encode())
    config = getattr(body, "config", None)
    if config is not None:
        shape = {key: value for key, value in config.to_dict().items() if not key.startswith("_")}
        state.update(json.dumps(shape, sort_keys=True, default=str).encode())
    backend = getattr(tokenizer, "backend_tokenizer", None)
    state.update(backend.to_str().encode() if backend is not None else repr(sorted(tokenizer.get_vocab())).encode())
    for name, value in sorted(body.state_dict().items()):
        state.update(name.encode())
        state.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return state.hexdigest()[:32]


def _digests(texts: list[str]) -> np.ndarray:
    """One fixed-length key a text, (N,)."""
    joined = b"".join(hashlib.sha256(text.encode()).digest()[: KEY - 1] + b"\x01" for text in texts)
    return np.frombuffer(joined, dtype=f"S{KEY}")
