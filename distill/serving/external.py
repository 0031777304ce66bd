"""Finds weights that an ONNX model keeps in other files, without loading it and without the onnx package."""

from __future__ import annotations

from collections.abc import Iterator

from distill.errors import UserError

# Where tensors hide: message -> field number -> message in that field (onnx.proto, ModelProto and what it holds).
INSIDE = {
    "model": {7: "graph", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
}
ENTRIES, DATA_LOCATION, EXTERNAL = 13, 14, 1  # in a tensor
KEY, VALUE = 1, 2  # in an entry
DEEPEST = 100  # messages inside messages; a real graph has about ten


def external_files(model: bytes) -> list[str]:
    """Files in which an ONNX model keeps tensors outside itself, [] for none.

    Args:
        model: The bytes of an ONNX file. Its protocol-buffer wire format is read directly.

    Raises:
        UserError: The bytes are damaged.
    """
    return sorted(set(_external(memoryview(model), "model", 0)))


def _external(message: memoryview, kind: str, depth: int) -> Iterator[str]:
    if depth > DEEPEST:
        raise UserError(
            "The model file nests its graphs deeper than any real model; it is damaged or was made to harm."
        )
    if kind == "tensor":
        yield from _locations(message)
        return
    for number, value in fields(message):
        if number in INSIDE[kind] and isinstance(value, memoryview):
            yield from _external(value, INSIDE[kind][number], depth + 1)


def _locations(tensor: memoryview) -> list[str]:
    names, external = [], False
    for number, value in fields(tensor):
        external |= number == DATA_LOCATION and value == EXTERNAL
        if number == ENTRIES and isinstance(value, memoryview):
            entry = {n: bytes(v) for n, v in fields(value) if isinstance(v, memoryview)}
            if entry.get(KEY) == b"location":
                names.append(entry.get(VALUE, b"").decode(errors="replace"))
    return names or ["(unnamed)"] * external


def fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Fields of a protocol-buffer message: numbers as int, everything with a length as a view."""
    place = 0
    while place < len(message):
        tag, place = _varint(message, place)
        wire = tag & 7
        if wire == 0:
            value, place = _varint(message, place)
            yield tag >> 3, value
            continue
        if wire == 2:
            size, place = _varint(message, place)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise UserError("The model file is not an ONNX file, or is damaged.")
        if place + size > len(message):
            raise UserError("The model file ends too early; it is damaged or was not copied whole.")
        yield tag >> 3, message[place : place + size]
        place += size


def _varint(message: memoryview, place: int) -> tuple[int, int]:
    value = shift = 0
    while place < len(message) and shift < 70:  # ten bytes at most
        byte = message[place]
        value |= (byte & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if byte < 0x80:
            return value, place
    raise UserError("The model file ends too early; it is damaged or was not copied whole.")
