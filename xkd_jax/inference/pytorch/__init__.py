"""The PyTorch module of exported folders; nothing here is used from JAX."""
