"""What an exported folder brings for PyTorch; nothing here is used from JAX."""
