"""Compares a long run with faults every few seconds to one without: see `__main__`."""
