"""Measurements of what the README promises: `python -m benchmarks.NAME [--quick] [--json FILE]`."""
