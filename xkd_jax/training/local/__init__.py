"""Checkpoints on each host's own disk."""
