"""Compares the code that trains with numbers of the authors' code.

    python -m xkd_jax.parity FILE [FILE ...]

Each file holds inputs, every random parameter, and what the authors' code made of them. It is known
by its keys (`kinds`): steps of training on a small network, spectrograms of sound, augmentations,
mixed targets, schedules, or the learning rate and weight decay of each layer. For each group of
numbers the largest error and its place are printed. The exit status is 0 only if all groups of all
files are inside their tolerances, 1 if one is not, and 2 if a file is unknown or damaged.
"""
