"""Quality, latency and the report."""
