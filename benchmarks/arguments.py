"""Kinds of arguments that several commands take."""

from __future__ import annotations

import argparse


def whole_numbers(text: str) -> list[int]:
    """Returns numbers given as `0,1,2`.

    Raises:
      ArgumentTypeError: one is none, or is given twice.
    """
    numbers = [int(number) for number in text.split(",") if number.isdecimal()]
    if len(set(numbers)) < len(text.split(",")):
        raise argparse.ArgumentTypeError(f"{text!r}: give whole numbers, each once, as in 0,1,2.")
    return numbers
