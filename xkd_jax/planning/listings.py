"""Listings of instructions that the TPU compiler writes beside a program.

The compiler estimates no cycles for kernels in a program's text; their instructions are counted
instead. It writes listings of all operations, some hundred MB for a large step, into a temporary
folder. libtpu reads its options when it is loaded, so the folder is one for the process.
"""

from __future__ import annotations

import contextlib
import functools
import re
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import jax
from jax.experimental.compilation_cache import compilation_cache

from xkd_jax.planning.hlo_text import bundles
from xkd_jax.planning.hlo_text.arrays import UnknownTextError

# TIME-OPERATION-NUMBER-final_bundles.txt
_FILE = re.compile(r"\d+-(?P<operation>.+)-\d+-final_bundles\.txt")


@functools.cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="xkd_jax-listings-")


def options() -> str:
    """Returns the options of libtpu with which it writes listings."""
    return (
        f"--xla_jf_dump_to={_folder().name} --xla_jf_dump_llo_text=true"
        " --xla_jf_dump_llo_pass_label_regex=^final_bundles"
    )


@contextlib.contextmanager
def written() -> Iterator[None]:
    """Programs compiled in this context have listings, as they don't come from JAX's cache."""
    _clear()
    before = jax.config.values["jax_enable_compilation_cache"]
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()
    try:
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", before)
        compilation_cache.reset_cache()


def cycles(operations: Iterable[str]) -> dict[str, float]:
    """Returns {operation: cycles of one run} of those with a listing, and deletes all listings.

    Listings that can't be read count as missing.

    Args:
      operations: names of operations of the program that was compiled last in `written`.
    """
    wanted = set(operations)
    found: dict[str, float] = {}
    for file in Path(_folder().name).glob("*-final_bundles.txt"):
        name = _FILE.fullmatch(file.name)
        if name and name["operation"] in wanted:
            with contextlib.suppress(UnknownTextError):
                found[name["operation"]] = bundles.cycles(file.read_text(encoding="utf-8"))
    _clear()
    return found


def _clear() -> None:
    for file in Path(_folder().name).iterdir():
        file.unlink(missing_ok=True)
