"""Checks whether a Matroska or WebM file is complete (RFC 8794, RFC 9559)."""

from __future__ import annotations

from typing import Protocol

_SEGMENT, _CLUSTER = 0x18538067, 0x1F43B675
# The elements of a segment or cluster of unknown size extend to the end of the file.
_MASTERS = (_SEGMENT, _CLUSTER)


class _Bytes(Protocol):
    def read(self, count: int) -> bytes: ...
    def seek(self, offset: int, whence: int = ...) -> int: ...


def is_whole(file: _Bytes) -> bool:
    """Whether the elements of a file, down to the blocks of its clusters, are contiguous.

    A truncated download ends inside an element; one with holes has zeros at the start of an
    element. Contents of elements are not read.
    """
    size = file.seek(0, 2)
    position = file.seek(0)
    while position < size:
        file.seek(position)
        head = file.read(12)
        id_length = _length(head, 4)
        size_length = _length(head[id_length:], 8)
        if not id_length or not size_length:
            return False
        identity = int.from_bytes(head[:id_length], "big")
        bits = 7 * size_length
        content = int.from_bytes(head[id_length : id_length + size_length], "big") % (1 << bits)
        position += id_length + size_length
        unknown = content == (1 << bits) - 1
        if unknown and identity not in _MASTERS:
            return False
        if not unknown and position + content > size:
            return False
        if identity == _SEGMENT and not unknown:
            size = position + content  # bytes after the segment are ignored
        if identity not in _MASTERS:
            position += content
    return True


def _length(head: bytes, limit: int) -> int:
    """Returns the length in bytes of the variable-length integer in `head`; 0 if invalid."""
    length = 9 - head[0].bit_length() if head else 9
    return length if length <= min(limit, len(head)) else 0
