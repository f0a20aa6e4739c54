"""A pretraining run: its loop, checkpoints, probes, and what it survives."""
