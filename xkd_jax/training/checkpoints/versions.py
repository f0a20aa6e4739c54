"""Versions that a run's numbers depend on: this program, Python, the libraries."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.metadata
import platform
from collections.abc import Iterable
from pathlib import Path

import data_pipelines
import xkd_jax

# Distributions that compute, decode or read. Those that are not installed, such as libraries of
# other accelerators, are left out.
DISTRIBUTIONS = (
    "jax", "jaxlib", "libtpu", "jax-cuda12-plugin", "jax-cuda13-plugin", "flax", "optax",
    "orbax-checkpoint", "tensorstore", "numpy", "grain", "simplejpeg", "opencv-python-headless",
    "soxr",
)  # fmt: skip


def versions() -> dict[str, str]:
    """Returns {name: version} of this program, Python and the installed libraries.

    `code` is a digest of the program's source files, 16 hexadecimal digits: it distinguishes states
    of a checkout with the same version number.
    """
    found = {"xkd_jax": xkd_jax.__version__, "code": _code(), "python": platform.python_version()}
    return found | installed(DISTRIBUTIONS)


def installed(distributions: Iterable[str]) -> dict[str, str]:
    """Returns {name: version} of those of the distributions that are installed."""
    found = {}
    for name in distributions:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


@functools.cache
def _code() -> str:
    packages = (xkd_jax, data_pipelines)
    return source_digest(Path(str(package.__file__)).parent for package in packages)


def source_digest(folders: Iterable[Path]) -> str:
    """A digest of the Python files below some packages' folders: 16 hexadecimal digits."""
    digest = hashlib.blake2b(digest_size=8)
    for root in folders:
        for path in sorted(root.rglob("*.py")):
            digest.update(f"{root.name}/{path.relative_to(root).as_posix()}\0".encode())
            digest.update(path.read_bytes() + b"\0")
    return digest.hexdigest()
