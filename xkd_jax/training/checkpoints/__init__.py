"""Checkpoints of a run: saving, restoring, and the detection of damaged ones."""
