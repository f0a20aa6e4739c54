"""The spoken digits: a data set of moving handwritten digits that say their name, made here."""

from data_pipelines.spoken_digits.make import build

__all__ = ["build"]
