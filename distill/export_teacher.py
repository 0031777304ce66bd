"""The teacher as ONNX, for comparison on the same runtime: text towers (tokens to vector) and histories to scores."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from distill.config import Config
from distill.data.dataset import Dataset
from distill.errors import UserError
from distill.export.bundle import write_model
from distill.export.encoder import OPSET
from distill.plugins import resolve
from distill.progress import say
from distill.runs import write_json
from distill.serving.session import open_session
from teachers.backbone import open_backbone
from teachers.body_parts import DECODERS, lower
from teachers.text_encoder import TextEncoder, tokenise

ABOUT = "teacher.json"
TEXTS = 16  # item texts that the exported tower is compared on
TOLERANCE = 1e-4  # of unit vectors, and of scores relative to the largest
SHOWN_HISTORIES = 8


def export_teacher(config: Config, dataset: Dataset, folder: Path) -> dict[str, Any]:
    """Writes what of a fused teacher has a natural graph, each checked against torch.

    For each member with a text encoder `<member>.tower.onnx`: `tokens` (M, L) and `mask` (M, L), int64, to unit
    `vectors` (M, h). For each member that scores by a decayed sum of item rows `<member>.history.onnx`: `history`
    (B, L) to `scores` (B, N).

    Args:
        config: Of the run, whose stage `teacher` is finished.
        dataset: Its data.
        folder: Where to write; made here.

    Returns:
        Bytes, exporter and largest difference by file; also in teacher.json.

    Raises:
        UserError: No member can be exported, or a file differs from torch.
    """
    folder.mkdir(parents=True, exist_ok=True)
    about: dict[str, Any] = {}
    for name, spec in config.teacher.members.items():
        member = resolve("teacher", spec.name)(**spec.arguments)
        source = config.folder / "teacher" / name
        if (source / "config.json").is_file() and hasattr(member, "pooling"):
            about[f"{name}.tower.onnx"] = export_tower(source, member, dataset.texts, folder / f"{name}.tower.onnx")
        member.load(source)
        table, decay = getattr(member, "table", None), getattr(member, "decay", None)
        if isinstance(table, Tensor) and decay is not None and hasattr(member, "vectors"):
            path = folder / f"{name}.history.onnx"
            about[path.name] = export_history(member, table, decay, path)
    if not about:
        raise UserError(
            "export.teacher: none of the teacher's members has a text encoder or a table of item vectors, so there is "
            f"nothing to export ({', '.join(config.teacher.members)}). Set export.teacher: false."
        )
    write_json(folder / ABOUT, about)
    for name, entry in about.items():
        say(f"teacher {name}: {entry['bytes'] / 1e6:.1f} MB by {entry['exporter']}, |Δ| {entry['max_error']:.1e}")
    return about


def export_tower(source: Path, member: Any, texts: list[str], path: Path) -> dict[str, Any]:
    """A member's text encoder with pooling, in float32.

    Raises:
        UserError: The graph's vectors differ from torch's.
    """
    body, tokenizer = open_backbone(str(source))
    encoder = TextEncoder(body, member.pooling, 1.0).eval()
    model = optimum_body(body)
    exporter = "optimum" if model is not None else "torch.onnx"
    if model is None:
        model = traced(_Tower(encoder), {"tokens": (2, 6), "mask": (2, 6)}, "vectors")
    else:
        model = with_pooling(model, member.pooling)
    write_model(model, path)
    batch = tokenise([text for text in texts if text.strip()][:TEXTS], tokenizer, member.max_tokens)
    tensors = batch.batch(torch.arange(len(batch)))
    with torch.no_grad():
        wanted = encoder(tensors)["vectors"].numpy()
    feed = {name: tensors[name].long().numpy() for name in ("tokens", "mask")}
    return _checked(path, feed, "vectors", wanted, exporter)


def export_history(member: Any, table: Tensor, decay: float, path: Path) -> dict[str, Any]:
    """A member that scores a history by the decayed sum of its items' rows, times all rows.

    Raises:
        UserError: The graph's scores differ from torch's.
    """
    n_items = len(table)
    random = np.random.default_rng(0)
    history = random.integers(0, n_items, (SHOWN_HISTORIES, 12))
    history[0, :-1] = n_items  # a history of one item, padded
    model = traced(_History(table.float(), float(decay)), {"history": (2, 6)}, "scores")
    write_model(model, path)
    batch = type("Histories", (), {"seen": history})  # all that such a member reads of a batch
    with torch.no_grad():
        wanted = member.score(batch).float().numpy()
    return _checked(path, {"history": history}, "scores", wanted, "torch.onnx")


class _Tower(nn.Module):
    """Tokens and mask to unit vectors."""

    def __init__(self, encoder: TextEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        batch = {"tokens": tokens, "mask": mask.bool()}
        body = self.encoder.body
        if body.config.model_type in DECODERS and self.encoder.frozen == 0:  # its own forward can't be traced
            batch["hidden"] = lower(body, tokens, batch["mask"], 0)
        return self.encoder(batch)["vectors"]


class _History(nn.Module):
    """Histories to scores: sum_j exp(-age_j / decay) table[item_j] . table[i]."""

    table: Tensor

    def __init__(self, table: Tensor, decay: float) -> None:
        super().__init__()
        self.register_buffer("table", table)
        self.decay = decay

    def forward(self, history: Tensor) -> Tensor:
        inside = history < self.table.shape[0]
        age = torch.arange(history.shape[1] - 1, -1, -1, dtype=torch.float32)
        weights = torch.exp(-age / self.decay) * inside
        rows = nn.functional.embedding(torch.where(inside, history, 0), self.table)
        return nn.functional.linear((weights[:, None, :] @ rows)[:, 0], self.table)


def optimum_body(body: Any) -> onnx.ModelProto | None:
    """The language model through optimum's exporter, or None where it isn't installed or doesn't know the architecture.

    Inputs are renamed to `tokens` and `mask`; token types, where the model has them, are all zero.
    """
    if body.config.model_type in DECODERS:
        return None  # it would want positions and old keys as well
    if importlib.util.find_spec("optimum") is None or importlib.util.find_spec("optimum.exporters.onnx") is None:
        return None
    with _quiet(), tempfile.TemporaryDirectory() as folder:
        try:
            from optimum.exporters.onnx import onnx_export_from_model

            onnx_export_from_model(body, folder, task="feature-extraction", do_validation=False, opset=18)
            return onnx.load(Path(folder, "model.onnx"))
        except (ImportError, ValueError, KeyError, RuntimeError, NotImplementedError) as error:
            say(f"optimum can't export a {type(body).__name__} ({error}); torch.onnx is used instead.")
            return None


def with_pooling(model: onnx.ModelProto, pooling: str) -> onnx.ModelProto:
    """Puts the pooling and the unit length behind a body's hidden states, and plain names before it."""
    make = helper.make_node
    graph = model.graph
    output = graph.output[0].name
    first = [make("Identity", ["tokens"], ["input_ids"]), make("Identity", ["mask"], ["attention_mask"])]
    constants: dict[str, np.ndarray] = {
        "pool.one": np.array([1], np.int64),
        "pool.last": np.array([-1], np.int64),
        "pool.small": np.array(1e-12, np.float32),
        "pool.least": np.array(1.0, np.float32),
    }
    if any(value.name == "token_type_ids" for value in graph.input):
        constants["pool.zero"] = np.array(0, np.int64)
        first.append(make("Mul", ["tokens", "pool.zero"], ["token_type_ids"]))
    if pooling == "mean":
        pooled = [
            make("Cast", ["mask"], ["pool.mask"], to=TensorProto.FLOAT),
            make("Unsqueeze", ["pool.mask", "pool.last"], ["pool.column"]),
            make("Mul", [output, "pool.column"], ["pool.kept"]),
            make("ReduceSum", ["pool.kept", "pool.one"], ["pool.sum"], keepdims=0),
            make("ReduceSum", ["pool.mask", "pool.one"], ["pool.tokens"], keepdims=1),
            make("Max", ["pool.tokens", "pool.least"], ["pool.count"]),
            make("Div", ["pool.sum", "pool.count"], ["pool.vector"]),
        ]
    elif pooling == "last":
        pooled = [
            make("ReduceSum", ["mask", "pool.one"], ["pool.tokens"], keepdims=1),
            make("Add", ["pool.tokens", "pool.last"], ["pool.place"]),
            make("GatherND", [output, "pool.place"], ["pool.vector"], batch_dims=1),
        ]
    else:
        constants["pool.first"] = np.array(0, np.int64)
        pooled = [make("Gather", [output, "pool.first"], ["pool.vector"], axis=1)]
    unit = [
        make("ReduceL2", ["pool.vector", "pool.last"], ["pool.norm"], keepdims=1),
        make("Max", ["pool.norm", "pool.small"], ["pool.length"]),
        make("Div", ["pool.vector", "pool.length"], ["vectors"]),
    ]
    info = helper.make_tensor_value_info
    size = graph.output[0].type.tensor_type.shape.dim[-1].dim_value or None
    whole = helper.make_graph(
        [*first, *graph.node, *pooled, *unit],
        "teacher",
        [info(name, TensorProto.INT64, ["texts", "length"]) for name in ("tokens", "mask")],
        [info("vectors", TensorProto.FLOAT, ["texts", size])],
        [*graph.initializer, *(numpy_helper.from_array(value, name) for name, value in constants.items())],
    )
    return helper.make_model(
        whole, opset_imports=model.opset_import, ir_version=model.ir_version, functions=list(model.functions)
    )


def traced(module: nn.Module, inputs: dict[str, tuple[int, int]], output: str) -> onnx.ModelProto:
    """A module traced by torch.onnx, both axes of every input dynamic.

    Raises:
        UserError: It can't be exported.
    """
    rows, length = torch.export.Dim("rows"), torch.export.Dim("length", min=1, max=512)
    with _quiet():
        try:
            program = torch.onnx.export(
                module.eval(),
                tuple(torch.ones(shape, dtype=torch.int64) for shape in inputs.values()),
                dynamo=True,
                dynamic_shapes={name: {0: rows, 1: length} for name in inputs},
                input_names=list(inputs),
                output_names=[output],
                opset_version=OPSET,
                external_data=False,
                verbose=False,
            )
        except torch.onnx.OnnxExporterError as error:
            reason = str(error).strip().splitlines()[0]
            raise UserError(f"The teacher's {type(module).__name__} can't be exported to ONNX: {reason}") from error
    assert program is not None
    return program.model_proto


def _checked(path: Path, feed: dict[str, np.ndarray], output: str, wanted: np.ndarray, exporter: str) -> dict[str, Any]:
    found = open_session(path.read_bytes()).run([output], feed)[0]
    error = float(np.abs(found - wanted).max())
    allowed = TOLERANCE * max(1.0, float(np.abs(wanted).max()))
    if not error <= allowed:
        raise UserError(
            f"{path.name} differs from torch by up to {error:.1e}, allowed {allowed:.1e}. Set export.teacher: false."
        )
    return {"bytes": path.stat().st_size, "exporter": exporter, "max_error": error}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir", "optimum", "transformers")]
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
