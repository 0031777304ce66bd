"""The user side of a student as an ONNX graph: traced, folded, and stripped of everything that serving doesn't need."""

from __future__ import annotations

import contextlib
import logging
import re
import warnings
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
import onnx
import onnx_ir
import torch
from onnxscript import optimizer
from torch import Tensor, nn

from distill.errors import UserError
from distill.serving.session import open_session

OPSET = 20  # the first with Gelu as one operator
IR_VERSION = 10
NO_LIMIT = 2**62
NO_TENSORS = ("Optional", "SequenceConstruct", "SequenceEmpty", "SplitToSequence")  # their values are no tensors
RANDOM = ("Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike")


class Exportable(Protocol):
    """What export asks of a student (see students.protocol.Student for shapes)."""

    n_items: int

    def encode(self, history: Tensor) -> Tensor:
        """Queries (B, D) for histories (B, L)."""

    def item_table(self) -> Tensor:
        """Item vectors (N, D)."""

    def item_bias(self) -> Tensor:
        """Item biases (N,)."""


class _Encoder(nn.Module):
    """`encode` as a forward, which is what the exporter traces."""

    def __init__(self, student: Exportable) -> None:
        super().__init__()
        self.student = student

    def forward(self, history: Tensor) -> Tensor:
        return self.student.encode(history)


def trace_encoder(student: Exportable, max_length: int) -> onnx.ModelProto:
    """Traces `student.encode` with a dynamic batch size and history length.

    Whatever doesn't depend on the history is computed here, once, and stored as its result: a table that the student
    makes of text vectors, a projection and an id part becomes one plain table, and the text vectors leave the graph.

    Args:
        student: A student in evaluation mode.
        max_length: Longest history L that it is asked about.

    Returns:
        A graph with the input `history` (B, L), int64, and the output `query` (B, D), float32.

    Raises:
        UserError: `encode` can't be exported; the message names the operator where the exporter does.
    """
    longest = max(2, max_length)  # sizes 0 and 1 are special to torch.export, so it is shown 2 x 2 or more
    example = torch.full((2, min(longest, 8)), student.n_items, dtype=torch.int64)
    example[:, -2:] = 0
    sizes = {"history": {0: torch.export.Dim("batch"), 1: torch.export.Dim("length", max=longest)}}
    return traced(student, _Encoder(student), {"history": example}, sizes, "query", "user.")


def traced(
    student: Any, module: nn.Module, inputs: dict[str, Tensor], sizes: dict[str, Any], output: str, prefix: str
) -> onnx.ModelProto:
    """A module of a student as a stripped graph with everything that no input reaches computed beforehand.

    Args:
        student: For messages.
        module: Its forward takes the inputs in their order and gives one tensor.
        inputs: Examples by name.
        sizes: Dynamic sizes by name of the input.
        output: Name of the result.
        prefix: Before the names of all inner values, so that graphs can be joined.

    Raises:
        UserError: It can't be exported.
    """
    with _quiet():
        try:
            program = torch.onnx.export(
                module.eval(),
                tuple(inputs.values()),
                dynamo=True,
                dynamic_shapes=sizes,
                input_names=list(inputs),
                output_names=[output],
                opset_version=OPSET,
                external_data=False,
                verbose=False,
            )
        except torch.onnx.OnnxExporterError as error:
            raise UserError(_explain(student, error)) from error
        assert program is not None  # None is what a deprecated way of calling returns
        optimizer.fold_constants(program.model, input_size_limit=NO_LIMIT, output_size_limit=NO_LIMIT)
        optimizer.remove_unused_nodes(program.model)
    _rename(program.model, prefix)
    return fold(strip(onnx_ir.to_proto(program.model)))


def folded_items(student: Exportable) -> tuple[np.ndarray, np.ndarray]:
    """The item side: vectors float32 (N, D) and biases float32 (N,).

    Raises:
        UserError: Their shapes don't fit the catalogue, or a weight isn't finite.
    """
    with torch.no_grad():
        table, bias = student.item_table().float().cpu().numpy(), student.item_bias().float().cpu().numpy()
    n_items = student.n_items
    if table.ndim != 2 or len(table) != n_items or bias.shape != (n_items,):
        raise UserError(
            f"{type(student).__name__} has an item table of shape {table.shape} and biases of shape {bias.shape}; "
            f"expected ({n_items}, D) and ({n_items},), one row and one number for each of its {n_items} items."
        )
    if not np.isfinite(table).all() or np.isnan(bias).any() or (bias == np.inf).any():
        raise UserError(
            f"{type(student).__name__} holds weights that are NaN or infinite, so it can't be exported. Its training "
            "diverged: lower fit.learning_rate, or look at the training curve."
        )
    return table, bias


def strip(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same graph without traces of where it was made (source lines, module paths, shapes of inner values)."""
    graph = onnx.helper.make_graph(
        [_plain_node(node) for node in model.graph.node],
        "student",
        [_plain_value(value) for value in model.graph.input],
        [_plain_value(value) for value in model.graph.output],
        [_plain_tensor(tensor) for tensor in model.graph.initializer],
    )
    opsets = [onnx.helper.make_opsetid(o.domain, o.version) for o in model.opset_import]
    return onnx.helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, functions=list(model.functions))


def fold(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same graph with everything that no input reaches replaced by its value, as onnxruntime computes it.

    onnxscript's folding leaves out operators that onnx's reference evaluator takes for functions, Gelu among them.

    Raises:
        UserError: onnxruntime can't run that part.
    """
    known = {tensor.name for tensor in model.graph.initializer}
    fixed, moving = [], []
    for node in model.graph.node:
        left = bool(node.domain) or node.op_type in (*NO_TENSORS, *RANDOM)
        left = left or any(attribute.HasField("g") for attribute in node.attribute)
        if not left and all(name in known for name in node.input if name):
            fixed.append(node)
            known |= set(node.output)
        else:
            moving.append(node)
    read = {name for node in moving for name in read_by(node)} | {value.name for value in model.graph.output}
    wanted = [name for node in fixed for name in node.output if name in read]
    if not fixed:
        return model
    part = onnx.helper.make_graph(
        fixed, "constants", [], [onnx.ValueInfoProto(name=name) for name in wanted], model.graph.initializer
    )
    whole = onnx.helper.make_model(part, opset_imports=model.opset_import, ir_version=model.ir_version)
    values = open_session(whole.SerializeToString()).run(wanted, {}) if wanted else []
    folded = onnx.ModelProto()
    folded.CopyFrom(model)
    del folded.graph.node[:], folded.graph.initializer[:]
    folded.graph.node.extend(moving)
    folded.graph.initializer.extend(tensor for tensor in model.graph.initializer if tensor.name in read)
    folded.graph.initializer.extend(map(onnx.numpy_helper.from_array, values, wanted))
    return folded


def read_by(node: onnx.NodeProto) -> set[str]:
    """Names of the values that a node reads, in the subgraphs of loops and branches too."""
    names = set(node.input)
    for attribute in node.attribute:
        if attribute.HasField("g"):
            names |= {value.name for value in attribute.g.output}
            names |= {name for inner in attribute.g.node for name in read_by(inner)}
    return names


def _rename(model: onnx_ir.Model, prefix: str) -> None:
    """Puts a prefix before the names of all inner values, so that none can clash with the scoring head's."""
    ends = {*model.graph.inputs, *model.graph.outputs}
    values = [*model.graph.initializers.values()]
    for node in model.graph.all_nodes():
        values += node.outputs
        for attribute in node.attributes.values():
            if attribute.type == onnx_ir.AttributeType.GRAPH:
                values += [*attribute.as_graph().inputs, *attribute.as_graph().initializers.values()]
    for value in values:
        if value not in ends and value.name:
            value.name = prefix + value.name


def _plain_node(node: onnx.NodeProto) -> onnx.NodeProto:
    plain = onnx.helper.make_node(node.op_type, list(node.input), list(node.output), domain=node.domain or None)
    plain.attribute.extend(node.attribute)
    return plain


def _plain_value(value: onnx.ValueInfoProto) -> onnx.ValueInfoProto:
    kind = value.type.tensor_type
    return onnx.helper.make_tensor_value_info(
        value.name,
        kind.elem_type,
        [d.dim_value if d.HasField("dim_value") else d.dim_param or None for d in kind.shape.dim],
    )


def _plain_tensor(tensor: onnx.TensorProto) -> onnx.TensorProto:
    return onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor), tensor.name)


def _explain(student: Any, error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    operator = re.search(r"op='([^']+)'", str(error))
    named = f"operator {operator.group(1)}: " if operator else ""
    return (
        f"{type(student).__name__}.encode can't be exported to ONNX: {named}{reason} Write encode with operators that "
        "torch.onnx.export knows, and without Python branches on the values of the history."
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the exporter's remarks (packages it doesn't find, deprecations of its own) off the terminal."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
