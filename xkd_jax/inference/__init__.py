"""Inference with trained encoders: loading of weights, and features of clips."""
