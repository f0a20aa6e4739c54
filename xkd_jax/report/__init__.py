"""The tables of results, beside the published numbers."""
