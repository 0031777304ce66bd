"""torch.compile for a training step: what it needs, and what is said where that is missing."""

from __future__ import annotations

import contextlib
import os
import shutil
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from torch import nn

from distill.errors import UserError

MEND = "or leave it out: fit.compile=false."


def compile_module(model: nn.Module) -> None:
    """Has torch.compile make programs of a module's forward and backward, for any sizes of a batch.

    The module stays itself, with the names of its weights: checkpoints are those of a run that isn't compiled, and
    either kind of run goes on from the other's.

    Raises:
        UserError: There is no C++ compiler, or no header of Python to compile with.
    """
    require_compiler()
    model.compile(dynamic=True)


def require_compiler() -> str:
    """The C++ compiler that torch.compile will start, by its path.

    Raises:
        UserError: There is none, or the headers of this Python are missing.
    """
    wanted = os.environ.get("CXX") or "g++"
    found = shutil.which(wanted)
    if found is None:
        where = "CXX" if os.environ.get("CXX") else "PATH"
        raise UserError(
            f"fit.compile is true, and torch.compile needs a C++ compiler at run time: '{wanted}' (from {where}) isn't "
            f"there. Install one (apt install g++, conda install gxx), name yours in CXX, {MEND}"
        )
    header = Path(sysconfig.get_paths()["include"]) / "Python.h"
    if not header.is_file():
        raise UserError(
            f"fit.compile is true, and torch.compile needs the headers of this Python: {header} isn't there. Install "
            f"them (apt install python3-dev), {MEND}"
        )
    return found


@contextlib.contextmanager
def compile_errors_said(compiled: bool, label: str) -> Iterator[None]:
    """Turns a failure of torch.compile in training into a message that says how to go on.

    Args:
        compiled: Whether anything is compiled; else nothing is caught.
        label: What is in training.

    Raises:
        UserError: A program couldn't be made.
    """
    if not compiled:
        yield
        return
    from torch._dynamo.exc import TorchDynamoException
    from torch._inductor.exc import CppCompileError, InvalidCxxCompiler

    try:
        yield
    except (TorchDynamoException, CppCompileError, InvalidCxxCompiler) as error:
        said = [line.strip() for line in str(error).splitlines()]
        first = next((line for line in said if line and not line.endswith("raised:")), type(error).__name__)
        raise UserError(f"{label}: torch.compile failed ({first[:300]}). Mend that, {MEND}") from error
