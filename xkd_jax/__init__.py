"""XKD: cross-modal knowledge distillation with domain alignment, in JAX.

    import xkd_jax
    model = xkd_jax.load("RUN")
    features = model.embed("clip.mp4")

Importing this package imports nothing else; JAX is imported with the first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from xkd_jax.inference.exporting import export as export
    from xkd_jax.inference.loading import load as load

__version__ = "0.1.0"
__all__ = ["__version__", "export", "load"]
_MODULES = {"export": "xkd_jax.inference.exporting", "load": "xkd_jax.inference.loading"}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_MODULES[name]), name)
