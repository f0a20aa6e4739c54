"""Versions that a run's numbers depend on: this program, Python, the libraries."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import platform
from pathlib import Path

import data_pipelines
import xkd_jax

# Distributions that compute, decode or read. Those that are not installed, such as libraries of
# other accelerators, are left out.
_DISTRIBUTIONS = (
    "jax", "jaxlib", "libtpu", "jax-cuda12-plugin", "jax-cuda13-plugin", "flax", "optax",
    "orbax-checkpoint", "tensorstore", "numpy", "grain", "simplejpeg", "opencv-python-headless",
    "soxr",
)  # fmt: skip


@functools.cache
def _installed() -> dict[str, str]:
    found = {"xkd_jax": xkd_jax.__version__, "code": _code(), "python": platform.python_version()}
    for name in _DISTRIBUTIONS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def versions() -> dict[str, str]:
    """Returns {name: version} of this program, Python and the installed libraries.

    `code` is a digest of the program's source files, 16 hexadecimal digits: it distinguishes states
    of a checkout with the same version number.
    """
    return dict(_installed())


def _code() -> str:
    digest = hashlib.blake2b(digest_size=8)
    for package in (xkd_jax, data_pipelines):
        root = Path(str(package.__file__)).parent
        for path in sorted(root.rglob("*.py")):
            digest.update(f"{root.name}/{path.relative_to(root).as_posix()}\0".encode())
            digest.update(path.read_bytes() + b"\0")
    return digest.hexdigest()
