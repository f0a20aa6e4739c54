"""Evaluations: each file builds one ConfigDict of `xkd_jax.config.evaluation`."""
