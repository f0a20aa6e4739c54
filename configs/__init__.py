"""Experiments: each file builds one ConfigDict."""
