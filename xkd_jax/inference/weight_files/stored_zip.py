"""Zip archives whose records are stored without compression, as `torch.save` writes them."""

from __future__ import annotations

import dataclasses
import struct
import zipfile
import zlib
from typing import BinaryIO

from xkd_jax.inference.weight_files.tensors import WeightFileError

MAGIC = b"PK\x03\x04"
_LOCAL_HEADER = struct.Struct("<4s5H3I2H")
_ENCRYPTED = 0x1


@dataclasses.dataclass(frozen=True)
class Record:
    """A record of an archive.

    Attributes:
      start: offset of its content in the file, in bytes.
      size: of its content, in bytes.
      crc: CRC-32 of its content.
    """

    start: int
    size: int
    crc: int

    def read(self, file: BinaryIO, most: int) -> bytes:
        """Returns the content of the record.

        Args:
          file: the archive, open for reading, with `seek`.
          most: largest size that is accepted, in bytes.

        Raises:
          WeightFileError: it is larger, truncated, or has another checksum.
        """
        if self.size > most:
            raise WeightFileError(f"a record in it has more than {most:,} bytes")
        file.seek(self.start)
        content = file.read(self.size)
        if len(content) != self.size or zlib.crc32(content) != self.crc:
            raise WeightFileError("a record in it has another checksum than stored")
        return content


def records(file: BinaryIO, size: int) -> dict[str, Record]:
    """Returns {name: record} of an archive, in the order of the file.

    Args:
      file: the archive, open for reading, with `seek`.
      size: of the file, in bytes.

    Raises:
      WeightFileError: it is damaged, or has records that are compressed, encrypted, overlapping or
        of the same name.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
    except Exception:  # damage raises many types in the parser
        raise WeightFileError("it is a damaged zip archive, possibly truncated") from None
    found: dict[str, Record] = {}
    end = 0
    for entry in sorted(entries, key=lambda entry: entry.header_offset):
        if entry.filename in found:
            raise WeightFileError("two records in it have the same name")
        if (
            entry.compress_type != zipfile.ZIP_STORED
            or entry.flag_bits & _ENCRYPTED
            or entry.compress_size != entry.file_size
        ):
            raise WeightFileError(
                "it has compressed or encrypted records, which torch.save does not write"
            )
        if entry.header_offset < end:
            raise WeightFileError("records in it overlap")
        start = _start(file, entry)
        end = start + entry.file_size
        if end > size:
            raise WeightFileError("it is truncated within a record")
        found[entry.filename] = Record(start, entry.file_size, entry.CRC)
    return found


def _start(file: BinaryIO, entry: zipfile.ZipInfo) -> int:
    """Returns the offset of a record's bytes, which follow a header of variable length."""
    file.seek(entry.header_offset)
    header = file.read(_LOCAL_HEADER.size)
    if len(header) < _LOCAL_HEADER.size or not header.startswith(MAGIC):
        raise WeightFileError("a record in it has no header")
    *_, name_length, extra_length = _LOCAL_HEADER.unpack(header)
    return entry.header_offset + len(header) + name_length + extra_length
