"""Every oracle on every kind of matrix: errors, times, operations (scripts/bench_oracles.py)."""
