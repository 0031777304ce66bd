"""The measured process seen from outside: started pinned, asked in JSON, ended by closing its input."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from distill.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class Worker:
    """One engine in a process of its own; use it in a `with` statement."""

    def __init__(self, factory: str, arguments: dict[str, Any], cores: Sequence[int]) -> None:
        """Starts the process; the engine is opened meanwhile, and `opened` waits for it.

        Args:
            factory: "module:function" that opens the engine; it must be importable from the repository's root or path.
            arguments: Plain values for it.
            cores: The cores that the process is pinned to; as many threads are allowed.
        """
        self.log = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115
        threads = dict.fromkeys(THREAD_VARIABLES, str(len(cores)))
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.latency.worker"],
            cwd=Path.cwd(),
            env={**os.environ, **threads, "PYTHONPATH": _path()},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
        )
        self._send({"do": "open", "factory": factory, "arguments": arguments, "cores": list(cores)})
        self._opened: dict[str, Any] | None = None

    def opened(self) -> dict[str, Any]:
        """Waits until the engine is open: {"seconds", "rows"}.

        Raises:
            UserError: It can't be opened.
        """
        if self._opened is None:
            self._opened = self._reply()
        return self._opened

    def ask(self, what: str, **arguments: Any) -> dict[str, Any]:
        """Has one thing measured; see the methods of `benchmarks.latency.worker.Bench`.

        Raises:
            UserError: The engine says what is wrong, or its process died.
        """
        self.opened()
        self._send({"do": what, **arguments})
        return self._reply()

    def _send(self, order: dict[str, Any]) -> None:
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(order) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            raise UserError(self._obituary()) from None

    def _reply(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise UserError(self._obituary())
        reply = json.loads(line)
        if "mistake" in reply:
            raise UserError(reply["mistake"])
        return reply

    def _obituary(self) -> str:
        code = self.process.wait()
        self.log.seek(0)
        last = (self.log.read().strip().splitlines() or ["it printed nothing"])[-1]
        return f"The measured process ended with code {code}: {last}"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None
        try:
            self.process.stdin.close()
            self.process.wait(10)
        except (subprocess.TimeoutExpired, BrokenPipeError):
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()
        self.log.close()


def _path() -> str:
    """The repository's root first: the worker and its factory may lie beside an installed package."""
    return os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
