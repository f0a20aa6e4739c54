"""Tables of results with the published numbers, and the page of runs."""
