"""Imports librosa without compiling functions that are never called.

While it is imported, librosa compiles some of its functions with numba, and keeps them in a folder
that must be writable: more than ten seconds for the first import of an installation, and an error
if the installation and the home folder are read-only. None of those functions is used here.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import threading
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

# Those that are used here, as librosa imports its parts when they are first used.
_PARTS = ("librosa.core.audio", "librosa.core.spectrum", "librosa.filters", "librosa.util.utils")

_lock = threading.Lock()


@functools.cache
def import_librosa() -> ModuleType:
    """Returns librosa, imported when first needed, as that takes a second."""
    with _lock, _compilation_on_call():
        for part in _PARTS:
            importlib.import_module(part)
        return importlib.import_module("librosa")


@contextlib.contextmanager
def _compilation_on_call() -> Iterator[None]:
    """Functions that are defined in this context are compiled by numba when first called."""
    import numba

    decorators = {name: getattr(numba, name) for name in ("jit", "vectorize", "guvectorize")}
    numba.jit = functools.partial(_without_cache, numba.jit)
    numba.vectorize = functools.partial(_on_call, numba.vectorize)
    numba.guvectorize = functools.partial(_on_call, numba.guvectorize)
    try:
        yield
    finally:
        for name, decorator in decorators.items():
            setattr(numba, name, decorator)


def _without_cache(
    decorator: Callable[..., Any], *args: Any, cache: bool = False, **options: Any
) -> Any:
    """Applies a decorator of numba without its folder of compiled functions."""
    return decorator(*args, **options)


def _on_call(
    decorator: Callable[..., Any], *args: Any, cache: bool = False, **options: Any
) -> Callable[..., Any]:
    """A decorator of numba, without its folder, that is applied when the function is called."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        compiled = functools.cache(lambda: decorator(*args, **options)(function))

        @functools.wraps(function)
        def call(*inputs: Any, **named: Any) -> Any:
            return compiled()(*inputs, **named)

        return call

    return decorate
