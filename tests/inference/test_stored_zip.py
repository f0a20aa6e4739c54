"""Zip archives of stored records: what torch.save does not write is refused."""

import io
import struct
import warnings
import zipfile

import pytest

from xkd_jax.inference.weight_files import stored_zip
from xkd_jax.inference.weight_files.tensors import WeightFileError

CONTENTS = {"a/one": b"content of one", "a/empty": b"", "a/two": b"content of two"}


def archive(contents=CONTENTS, compression=zipfile.ZIP_STORED):
    file = io.BytesIO()
    with warnings.catch_warnings(action="ignore"), zipfile.ZipFile(file, "w", compression) as made:
        for name, content in contents.items() if isinstance(contents, dict) else contents:
            made.writestr(name, content)
    return file.getvalue()


def read(content, size=None, most=100):
    file = io.BytesIO(content)
    found = stored_zip.records(file, len(content) if size is None else size)
    return {name: record.read(file, most) for name, record in found.items()}


def test_records_are_read_in_their_order():
    found = read(archive())
    assert found == CONTENTS
    assert list(found) == list(CONTENTS)


def test_compressed_records_are_refused():
    bomb = archive({"a": bytes(10**6)}, zipfile.ZIP_DEFLATED)
    assert len(bomb) < 10**4
    with pytest.raises(WeightFileError, match="compressed"):
        read(bomb)


def test_two_records_of_one_name_are_refused():
    with pytest.raises(WeightFileError, match="the same name"):
        read(archive([("a", b"1"), ("a", b"2")]))


def test_records_that_overlap_are_refused():
    content = bytearray(archive())
    entry = content.index(b"a/two", content.index(b"PK\x01\x02")) - 46
    first = content.index(b"a/one") - 30
    content[entry + 42 : entry + 46] = struct.pack("<I", first)
    with pytest.raises(WeightFileError, match="overlap"):
        read(bytes(content))


def test_record_without_header_is_refused():
    content = archive().replace(b"PK\x03\x04", b"PK\x03\x05", 1)
    with pytest.raises(WeightFileError, match="no header"):
        read(content)


def test_truncated_archive_and_record_are_refused():
    content = archive()
    with pytest.raises(WeightFileError, match="possibly truncated"):
        read(content[:-30])
    with pytest.raises(WeightFileError, match="truncated within a record"):
        read(content, size=content.index(b"content of two") + 3)


def test_flipped_bit_is_found():
    content = bytearray(archive())
    content[content.index(b"content of two") + 5] ^= 1
    with pytest.raises(WeightFileError, match="checksum"):
        read(bytes(content))


def test_record_of_more_bytes_than_asked_for_is_not_read():
    assert read(archive(), most=14) == CONTENTS
    with pytest.raises(WeightFileError, match="more than 13 bytes"):
        read(archive(), most=13)
