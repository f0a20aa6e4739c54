"""Weights of other projects: recognition of each format and its exact conversion to our encoder."""
