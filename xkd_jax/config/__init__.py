"""The settings of a run and of an evaluation, and their command line."""
