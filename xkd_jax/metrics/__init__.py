"""Scores of predictions, and nearest neighbors."""
