"""Experiments: each file returns one ConfigDict."""
