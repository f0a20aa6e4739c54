"""The parser of a command's arguments."""

from __future__ import annotations

import argparse


def command_parser(name: str, text: str | None) -> argparse.ArgumentParser:
    """Returns a parser that accepts no abbreviated flag, for the command `python -m name`.

    Args:
      name: of the module.
      text: its docstring, which --help prints with its line breaks.
    """
    return argparse.ArgumentParser(
        prog=f"python -m {name}", description=text, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
