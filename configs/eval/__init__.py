"""Evaluations: each file returns one ConfigDict of `xkd_jax.config.evaluation`."""
