"""XKD: cross-modal knowledge distillation with domain alignment, in JAX."""

__version__ = "0.1.0"
