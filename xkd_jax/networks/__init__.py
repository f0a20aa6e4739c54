"""The networks: Flax NNX modules without state beyond their parameters."""
