"""Benchmarks; most of them print JSON."""
