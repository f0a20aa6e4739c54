"""What a run would need on a TPU slice, from the compiler's own program for it."""
