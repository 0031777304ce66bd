"""The words of `export.variants`: how the table is stored, how wide it is, and how the layers calculate.

int8          a stored form
int8@32       the same, of the best 32-dimensional approximation of the table
int8+static   the same, with the encoder's layers in int8 arithmetic ("dynamic" or "static")
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from distill.errors import UserError
from distill.export import codebooks, codecs
from distill.export.codecs import Codec
from distill.export.factors import factored
from distill.export.layers import ARITHMETIC
from distill.plugins import nearest

LOW_RANK = "low_rank"  # float32 with half the dimensions


@dataclass(frozen=True)
class Form:
    """How the parts of a student are stored.

    Attributes:
        table: Codec of tables with a row an item.
        matrix: Codec of the encoder's other matrices.
        half_bias: Item biases in float16.
    """

    table: Codec
    matrix: Codec
    half_bias: bool = True


FORMS = {
    "fp32": Form(codecs.float32, codecs.float32, half_bias=False),
    "fp16": Form(codecs.float16, codecs.float16),
    "int8": Form(codecs.int8, codecs.int8, half_bias=False),
    "int4": Form(codecs.int4, codecs.int4),
    "pq": Form(codebooks.product, codecs.int8),
    "kmeans": Form(codebooks.shared, codecs.int8),
    "pruned": Form(codecs.pruned, codecs.int8),
}
WORD = re.compile(r"(?P<form>[a-z_0-9]+)(@(?P<rank>[1-9][0-9]*))?(\+(?P<arithmetic>[a-z]+))?")


@dataclass(frozen=True)
class Variant:
    """A word, read.

    Attributes:
        form: How the parts are stored.
        rank: Width of the tables; 0 keeps the student's own.
        arithmetic: "dynamic", "static", or "" for float32 layers.
        exact: Whether scores are held to float32 accuracy.
    """

    form: Form
    rank: int = 0
    arithmetic: str = ""
    exact: bool = False

    @property
    def table(self) -> Codec:
        """The codec of item tables, low rank included."""
        return factored(self.form.table, self.rank) if self.rank else self.form.table


def parse(word: str, dim: int) -> Variant:
    """Reads a word of `export.variants`.

    Args:
        word: Such as "int8", "int4@32" or "int8+static".
        dim: The student's width D.

    Raises:
        UserError: No form, width or arithmetic of that name.
    """
    found = WORD.fullmatch(word)
    names = [*FORMS, LOW_RANK]
    if found is None or found["form"] not in names:
        raise UserError(
            f"'export.variants' holds '{word}', which is no variant{nearest(word, names)}. A variant is a stored "
            "form, which may be followed by @ and a number of dimensions and by +dynamic or +static: int8, int4@32, "
            "int8+static."
        )
    name, rank, arithmetic = found["form"], int(found["rank"] or 0), found["arithmetic"] or ""
    if arithmetic and arithmetic not in ARITHMETIC:
        raise UserError(
            f"'export.variants' holds '{word}': '{arithmetic}' is no way to calculate{nearest(arithmetic, ARITHMETIC)}."
        )
    if rank > dim:
        raise UserError(
            f"'export.variants' holds '{word}', but the student has {dim} dimensions; give {dim} or fewer behind the @."
        )
    if name == LOW_RANK:
        name, rank = "fp32", rank or max(1, dim // 2)
    rank = 0 if rank == dim else rank
    return Variant(FORMS[name], rank, arithmetic, exact=name == "fp32" and not rank and not arithmetic)


def file_name(word: str) -> str:
    """The file of a variant in a bundle."""
    return f"model.{word.replace('@', '-').replace('+', '-')}.onnx"
