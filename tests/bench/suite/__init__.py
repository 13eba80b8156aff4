"""Modules of tools/bench; tests/bench/bench.py is the program."""
