"""Benchmarks on an accelerator, run by one command (`__main__`)."""
