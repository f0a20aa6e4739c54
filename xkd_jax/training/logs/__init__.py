"""Output and records of a run: metrics, goodput, waits for data."""
