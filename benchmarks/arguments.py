"""Types of command-line arguments that several commands share."""

from __future__ import annotations

import argparse


def whole_numbers(text: str) -> list[int]:
    """Parses whole numbers such as `0,1,2`.

    Raises:
      ArgumentTypeError: a part is not a number, or a number is repeated.
    """
    numbers = [int(number) for number in text.split(",") if number.isdecimal()]
    if len(set(numbers)) < len(text.split(",")):
        raise argparse.ArgumentTypeError(f"{text!r}: give whole numbers, each once, as in 0,1,2.")
    return numbers
