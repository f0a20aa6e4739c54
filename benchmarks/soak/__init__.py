"""A long run with faults every few seconds, beside the same run without: see `__main__`."""
