"""Measurements of the ops against their peers, in one run: ``python tools/bench.py ops``."""
