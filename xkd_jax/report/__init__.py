"""Tables of results with the published numbers."""
