"""A pretraining run: its loop, checkpoints, probes, and reactions to faults."""
