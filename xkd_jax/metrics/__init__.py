"""Metrics of predictions, and k-nearest-neighbors classification."""
