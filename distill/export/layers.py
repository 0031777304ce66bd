"""The encoder's layers in int8 arithmetic, by onnxruntime's own tools."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path

import numpy as np
import onnx

from distill.errors import UserError

ARITHMETIC = ("dynamic", "static")


def integer_layers(encoder: onnx.ModelProto, how: str, histories: np.ndarray | None) -> onnx.ModelProto:
    """The encoder with its layers (products with constant matrices) in int8 arithmetic.

    Args:
        encoder: A traced encoder.
        how: "dynamic" measures each batch's activations as it comes, so a row may depend a little on its batch;
            "static" uses ranges seen on the calibration histories.
        histories: Calibration histories (Q, L) for "static".

    Raises:
        UserError: "static" without histories.
    """
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_dynamic,
        quantize_static,
    )

    if how == "static" and histories is None:
        raise UserError("A variant '+static' measures activations on histories, but none were given.")

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            assert histories is not None
            self.batches = iter(np.array_split(histories, max(1, len(histories) // 256)))

        def get_next(self) -> dict[str, np.ndarray] | None:  # type: ignore[override]
            batch = next(self.batches, None)
            return None if batch is None else {"history": batch}

    kinds = ["Gemm", "MatMul"]
    constants = {tensor.name for tensor in encoder.graph.initializer}
    named = onnx.ModelProto()
    named.CopyFrom(encoder)
    left_out = []
    for number, node in enumerate(named.graph.node):
        node.name = node.name or f"user.node_{number}"
        if node.op_type in kinds and node.input[1] not in constants:
            left_out.append(node.name)  # products of two activations stay as they are
    root, level = logging.getLogger(), logging.getLogger().level
    root.setLevel(logging.ERROR)  # the tools advise a preparation of the graph that has been done already
    try:
        with tempfile.TemporaryDirectory() as folder:
            source, target = Path(folder, "source.onnx"), Path(folder, "target.onnx")
            onnx.save(named, source)
            common = {
                "op_types_to_quantize": kinds,
                "nodes_to_exclude": left_out,
                "per_channel": True,
                "weight_type": QuantType.QInt8,
                # 7-bit weights: pairs of products fit the 16 bits of a CPU without VNNI, see distill.export.integer
                "reduce_range": True,
            }
            if how == "dynamic":
                quantize_dynamic(source, target, **common)
            else:
                quantize_static(
                    source,
                    target,
                    Reader(),
                    quant_format=QuantFormat.QDQ,
                    activation_type=QuantType.QUInt8,
                    **common,
                )
            return onnx.load(target)
    finally:
        root.setLevel(level)
