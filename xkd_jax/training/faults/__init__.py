"""Reactions to faults: preemption, values that are not finite, silent corruption, a second run."""
