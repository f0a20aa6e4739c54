"""What a run prints and records: metrics, goodput, waits for data."""
