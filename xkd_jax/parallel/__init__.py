"""Sharding over devices, and the processes of a run."""
