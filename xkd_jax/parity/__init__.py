"""Compares this implementation with numbers that the authors' code computed.

    python -m xkd_jax.parity FILE [FILE ...]

Each file has inputs, all random parameters, and the results of the authors' code. Its keys
determine its kind (`kinds`): training steps of a small network, log-mel spectrograms,
augmentations, mixed targets, schedules, or the learning rate and weight decay of each layer. The
largest error of each group of numbers and its place are printed. The exit status is 0 if all groups
of all files are within their tolerances, 1 if one is not, and 2 if a file is unknown or damaged.
"""
