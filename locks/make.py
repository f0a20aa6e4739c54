"""Writes the lock files: the newest version of every package, for each supported Python.

    pip install -e '.[lock]' -c locks/3.12.txt
    python locks/make.py [PYTHON ...]

`locks/3.12.txt` has one line for each package that requirements.txt or an extra of pyproject.toml
needs on Python 3.12, directly or indirectly, on any system; it is a constraints file for pip. These
Pythons need not be installed. Without arguments all files are written. The supported Pythons are
the classifiers in pyproject.toml. Packages come from the index that uv is configured for, which the
files do not contain.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
# Apache Beam requires old versions of NumPy and protobuf, and PyTorch for CPUs comes from another
# index than PyTorch for GPUs, so both are in separate environments.
UNLOCKED_EXTRAS = ("beam", "pytorch", "peers")
_CLASSIFIER = "Programming Language :: Python :: "


def project() -> dict:
    """Returns the `project` table of pyproject.toml."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def pythons() -> list[str]:
    """Returns the supported Pythons, such as 3.12."""
    return [
        name.removeprefix(_CLASSIFIER)
        for name in project()["classifiers"]
        if name.startswith(_CLASSIFIER)
    ]


def requirements() -> list[str]:
    """Returns the direct requirements of the package and its extras, with lower bounds."""
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    needed = [text for line in lines if (text := line.partition("#")[0].strip())]
    for name, extra in project()["optional-dependencies"].items():
        if name not in UNLOCKED_EXTRAS:
            needed += extra
    return needed


def lock(python: str) -> str:
    """Returns the lock file's text for one Python.

    Raises:
      CalledProcessError: no versions are compatible, or the index can't be reached; uv prints why.
    """
    major, minor = map(int, python.split("."))
    with tempfile.TemporaryDirectory() as folder:
        # A project without anything else, since uv takes `environments` from a project only, and
        # would build ours to see its dependencies.
        Path(folder, "pyproject.toml").write_text(
            f'[project]\nname = "lock"\nversion = "0"\nrequires-python = "=={python}.*"\n'
            f"dependencies = {json.dumps(requirements())}\n"
            f"[tool.uv]\nenvironments = [\"python_version == '{python}'\"]\n",
            encoding="utf-8",
        )
        command = [
            sys.executable, "-m", "uv", "pip", "compile", "-q", "--universal",
            "--python-version", python, "--no-header", "--no-annotate", "--no-emit-index-url",
            "--no-emit-find-links", "pyproject.toml",
        ]  # fmt: skip
        lines = subprocess.run(
            command, cwd=folder, check=True, stdout=subprocess.PIPE, text=True
        ).stdout
    # The file is for one Python, so this marker is redundant.
    only = f"python_full_version < '{major}.{minor + 1}'"
    return lines.replace(f" ; {only} and ", " ; ").replace(f" ; {only}", "")


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(
        prog="python locks/make.py", description=__doc__, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("pythons", nargs="*", metavar="PYTHON", help="all unless given")
    arguments = parser.parse_args(argv)
    if unknown := set(arguments.pythons) - set(pythons()):
        parser.error(f"Python {min(unknown)!r} is not supported: give {', '.join(pythons())}.")
    for python in arguments.pythons or pythons():
        try:
            text = lock(python)
        except subprocess.CalledProcessError as error:
            sys.exit(error.returncode)
        file = ROOT / "locks" / f"{python}.txt"
        file.write_text(text)
        print(f"{file.relative_to(ROOT)}: {len(text.splitlines())} packages")


if __name__ == "__main__":
    main()
