"""Item texts translated to another language and back, by any translation models that lie in local folders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from distill.errors import UserError
from distill.progress import track


def back_translation(
    texts: Sequence[str],
    seed: int,
    there: str,
    back: str,
    batch_size: int = 32,
    max_tokens: int = 64,
    beams: int = 1,
    temperature: float = 0.0,
) -> list[str]:
    """Translates there and back with two sequence-to-sequence models (Marian, T5, M2M, …).

    Args:
        texts: Any texts; empty ones stay empty, and one of which nothing comes back stays as it was.
        seed: Of the draws, where the temperature is above 0.
        there, back: Folders of Hugging Face models with their tokenizers; weights as safetensors.
        batch_size: Texts at once.
        max_tokens: Longest translation.
        beams: Width of the beam search; 1 takes the likeliest token each time.
        temperature: Above 0, tokens are drawn, so that several copies differ.

    References:
        Sennrich et al. 2016, "Improving neural machine translation models with monolingual data"; Xie et al. 2020,
        "Unsupervised data augmentation for consistency training", section 3 (sampling with a temperature).

    Raises:
        UserError: A folder isn't there or holds no translation model.
    """
    said = list(texts)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for role, folder in (("there", there), ("back", back)):
            rows = [row for row, text in enumerate(said) if text.strip()]
            rows.sort(key=lambda row: len(said[row]))  # batches of similar length
            found = _translated([said[row] for row in rows], role, folder, batch_size, max_tokens, beams, temperature)
            for row, text in zip(rows, found, strict=True):
                said[row] = text
    return [new if new.strip() else old for new, old in zip(said, texts, strict=True)]


@torch.no_grad()
def _translated(
    texts: list[str], role: str, folder: str, batch_size: int, max_tokens: int, beams: int, temperature: float
) -> list[str]:
    place = Path(folder).expanduser()
    expected = "Expected a folder with config.json, model.safetensors and the files of a tokenizer."
    if not (place / "config.json").is_file():
        raise UserError(f"paraphrase 'back_translation': '{folder}' ({role}) holds no model. {expected}")
    try:
        options = {"local_files_only": True, "trust_remote_code": False}
        tokenizer = AutoTokenizer.from_pretrained(place, **options)
        model = AutoModelForSeq2SeqLM.from_pretrained(place, use_safetensors=True, dtype=torch.float32, **options)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, ImportError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"paraphrase 'back_translation': '{folder}' ({role}) can't be opened as a translation model ({reason}). "
            f"{expected}"
        ) from error
    model.eval().to("cuda" if torch.cuda.is_available() else "cpu")
    draw = {"do_sample": True, "temperature": temperature, "top_k": 0} if temperature > 0 else {"do_sample": False}
    found: list[str] = []
    for first in track(range(0, len(texts), batch_size), f"translating {role}", unit=f"x {batch_size} texts"):
        some = texts[first : first + batch_size]
        tokens = tokenizer(some, return_tensors="pt", padding=True, truncation=True, max_length=max_tokens)
        given = {name: tokens[name].to(model.device) for name in ("input_ids", "attention_mask")}
        made = model.generate(**given, max_new_tokens=max_tokens, num_beams=beams, **draw)
        found += [text.strip() for text in tokenizer.batch_decode(made, skip_special_tokens=True)]
    return found
