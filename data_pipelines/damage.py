"""What decoding raises where a file is damaged."""

# Time stamps may go back by so many seconds; a clock that starts again is another matter.
LONGEST_STEP_BACK = 1.0


class DamageError(Exception):
    """A file that can be opened is damaged from some point on; the text says how."""
