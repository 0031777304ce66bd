"""A process that holds one engine and measures it on demand: `python -m benchmarks.latency.worker`.

Orders come as lines of JSON on standard input, replies go the same way to standard output. Each engine has a process of
its own, so that no other one's memory, threads or garbage are measured with it; it is pinned to its cores before
anything is loaded.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.latency.engines import Engine
from benchmarks.latency.machine import resident_bytes
from benchmarks.latency.open_loop import arrivals, run_open_loop
from benchmarks.latency.single import timed, warm
from benchmarks.latency.streams import request_rows
from distill.errors import UserError


class Bench:
    """The opened engine and what can be asked of it."""

    def __init__(self, factory: str, arguments: dict[str, Any]) -> None:
        """Opens the engine: `factory` is "module:function"."""
        module, _, name = factory.partition(":")
        self.engine: Engine = getattr(importlib.import_module(module), name)(**arguments)

    def warm(self, calls: int, seconds: float) -> dict[str, Any]:
        """The very first call, then the warm-up; afterwards what lives is out of the garbage collector's way."""
        first = timed(self._call("uniform", 1, 0), range(1))[0]
        patient = 2 * first < seconds * 1e9  # whose single call takes seconds is warm after the first
        done = warm(self._call("uniform", max(1, calls), 1), calls, seconds) if patient else 0
        gc.collect()
        gc.freeze()
        return {"first": first, "warmup": done, "resident_bytes": resident_bytes()}

    def single(self, stream: str, calls: int, start: int, stop: int) -> dict[str, Any]:
        """Requests start to stop of a stream of so many."""
        call = self._call(stream, calls, 2)
        begin = time.process_time()
        spent = timed(call, range(start, stop))
        return {
            "nanoseconds": spent,
            "cpu_seconds": time.process_time() - begin,
            "resident_bytes": resident_bytes(),
        }

    def open_loop(self, stream: str, rate: float, calls: int, seed: int) -> dict[str, Any]:
        """Poisson arrivals at a mean rate a second."""
        latency, work = run_open_loop(self._call(stream, calls, 3), arrivals(rate, calls, seed))
        return {"nanoseconds": latency.tolist(), "work": work.tolist(), "resident_bytes": resident_bytes()}

    def offline(self, stream: str, batch: int, seconds: float) -> dict[str, Any]:
        """Batches, one after the other, for so long and at least three times."""
        if self.engine.many is None:
            raise UserError("This engine answers one request at a time.")
        rows = request_rows(stream, self.engine.rows, max(batch * 4, 4096), 4)
        pieces = [rows[place : place + batch] for place in range(0, len(rows) - batch + 1, batch)]
        self.engine.many(pieces[0])
        spent: list[int] = []
        cpu, end = time.process_time(), time.perf_counter() + seconds
        while len(spent) < 3 or time.perf_counter() < end:
            many, piece = self.engine.many, pieces[len(spent) % len(pieces)]
            begin = time.perf_counter_ns()
            many(piece)
            spent.append(time.perf_counter_ns() - begin)
        cpu = time.process_time() - cpu
        return {"nanoseconds": spent, "cpu_seconds": cpu, "resident_bytes": resident_bytes()}

    def _call(self, stream: str, calls: int, seed: int) -> Callable[[int], Any]:
        rows = request_rows(stream, self.engine.rows, calls, seed).tolist()
        one = self.engine.one
        return lambda number: one(rows[number])


def main() -> None:
    """Obeys orders until the input ends. A mistake of the user's is a reply, not a crash."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print must not get between the replies
    bench: Bench | None = None
    for line in sys.stdin:
        order = json.loads(line)
        what = order.pop("do")
        try:
            if what == "open":
                os.sched_setaffinity(0, order.pop("cores"))
                begin = time.perf_counter()
                bench = Bench(**order)
                reply: dict[str, Any] = {"seconds": time.perf_counter() - begin, "rows": bench.engine.rows}
            else:
                reply = getattr(bench, what)(**order)
        except UserError as error:
            reply = {"mistake": str(error)}
        replies.write(json.dumps(reply, default=_plain) + "\n")
        replies.flush()


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else str(value)


if __name__ == "__main__":
    main()
