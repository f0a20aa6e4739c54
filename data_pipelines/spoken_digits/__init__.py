"""The spoken digits: a generated data set of moving handwritten digits with their spoken names."""

from data_pipelines.spoken_digits.make import build

__all__ = ["build"]
