"""The framing of records in TFRecord files.

A TFRecord file is a sequence of records without gaps, each framed as
    uint64 length | uint32 masked CRC-32C of the length | data | uint32 masked CRC-32C of the data
with little-endian numbers (TensorFlow, `core/lib/io/record_writer.h`).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import BinaryIO

import google_crc32c
import numpy as np

from data_pipelines.errors import UserError
from data_pipelines.format.record_schema import MAX_RECORD_BYTES

HEADER = struct.Struct("<QI")
FOOTER = struct.Struct("<I")
FRAMING = HEADER.size + FOOTER.size


def masked_crc(data: bytes | np.ndarray) -> int:
    """Returns the CRC-32C of bytes (or uint8 [n]), rotated and offset as in TFRecord files."""
    crc = google_crc32c.value(data)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def frame(data: bytes) -> tuple[bytes, bytes, bytes]:
    """Returns header, data and footer of a record."""
    length = struct.pack("<Q", len(data))
    header = length + FOOTER.pack(masked_crc(length))
    return header, data, FOOTER.pack(masked_crc(data))


def framings(file: BinaryIO, path: str, size: int) -> Iterator[tuple[int, int]]:
    """Yields the length and the masked CRC-32C of the data of each record.

    Each read returns a footer and the next header.

    Args:
      file: the open file.
      path: name of the file in error messages.
      size: of the file, in bytes.

    Raises:
      UserError: a header's checksum is wrong, a record is too long, or the last one is cut off.
    """
    record, offset = 0, 0
    header = file.read(HEADER.size)
    while offset < size:
        length = checked_length(header, path, record)
        offset += length + FRAMING
        if offset > size:
            raise cut_off(path, record)
        file.seek(offset - FOOTER.size)
        both = file.read(FRAMING)
        if len(both) < FOOTER.size:
            raise cut_off(path, record)
        yield length, FOOTER.unpack_from(both)[0]
        header = both[FOOTER.size :]
        record += 1


def checked_length(header: bytes, path: str, record: int) -> int:
    """Returns the length in a record's header, after checking it.

    Args:
      header: bytes of the header.
      path: of the shard, for error messages.
      record: number in the shard, for error messages.

    Raises:
      UserError: the header is cut off, its checksum is wrong, or the length is too large.
    """
    if len(header) < HEADER.size:
        raise cut_off(path, record)
    length, crc = HEADER.unpack(header)
    if crc != masked_crc(header[:8]):
        if record == 0 and header[:2] == b"\x1f\x8b":
            raise UserError(f"{path} is compressed: decompress it with gzip -d.")
        raise UserError(
            f"{path} is damaged at record {record} (the checksum of its length is wrong), or is not"
            " a TFRecord file: copy or build the shard again."
        )
    if length > MAX_RECORD_BYTES:
        raise UserError(
            f"{path} states {length:,} bytes for record {record}, more than the limit of"
            f" {MAX_RECORD_BYTES:,}: build the shard again."
        )
    return length


def cut_off(path: str, record: int) -> UserError:
    """Returns the error for a record that is cut off."""
    return UserError(f"{path} is cut off in record {record}: copy or build the shard again.")
