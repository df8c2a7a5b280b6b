"""Micro-benchmarks: each module with a ``main`` is a program, ``python -m benchmarks.<name>``. See README.md."""
