"""What decoding raises where a file is damaged."""


class DamageError(Exception):
    """A file that can be opened is damaged from some point on; the text says how."""
