"""Trained encoders in use: loading weights, ours and other people's, and features of clips."""
