"""Latency after MLPerf's scenarios: one answer at a time, an open loop of Poisson arrivals, and batches offline."""

from benchmarks.latency.single import measure, measure_for, measure_interleaved, one_torch_thread

__all__ = ["measure", "measure_for", "measure_interleaved", "one_torch_thread"]
