"""Benchmarks: rates as ratios against the bare alternative, measured in one run on one machine."""
