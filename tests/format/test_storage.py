import errno
import io
import os
import pathlib
from typing import ClassVar

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from data_pipelines.errors import UnreachableError, UserError
from data_pipelines.format import (
    file_tree,
    filesystems,
    record_source,
    retries,
    shard_index,
    shards,
    storage,
    tfrecord,
)


@pytest.fixture(params=["local", "memory"])
def folder(request, tmp_path) -> str:
    path = str(tmp_path / "data") if request.param == "local" else f"memory://{tmp_path.name}/data"
    storage.make_folder(path)
    return path


def test_files_round_trip(folder):
    with storage.writer(storage.join(folder, "a")) as file:
        file.write(b"one")
        file.write(b"two")
    assert storage.read(storage.join(folder, "a")) == b"onetwo"
    assert storage.sizes(folder) == {"a": 6}


def test_file_appears_only_when_it_is_complete(folder):
    path = storage.join(folder, "a")
    with storage.writer(path) as file:
        file.write(b"old")

    def interrupted():
        with storage.writer(path) as file:
            file.write(b"new")
            file.flush()
            assert storage.read(path) == b"old"
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert storage.read(path) == b"old"
    assert storage.sizes(folder) == {"a": 3}


def test_folders_are_not_files(folder):
    storage.make_folder(storage.join(folder, "inner"))
    with storage.writer(storage.join(storage.join(folder, "inner"), "b")) as file:
        file.write(b"x")
    assert storage.sizes(folder) == {}
    storage.remove_folder(storage.join(folder, "inner"))
    with pytest.raises(FileNotFoundError):
        storage.read(storage.join(storage.join(folder, "inner"), "b"))


def test_absent_files_and_folders_are_errors(folder):
    with pytest.raises(FileNotFoundError):
        storage.read(storage.join(folder, "absent"))
    with pytest.raises(UserError, match="is not a folder"):
        storage.sizes(storage.join(folder, "absent"))


def test_folder_that_cannot_be_created_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="can't be created"):
        storage.make_folder(str(tmp_path / "file" / "folder"))


@pytest.mark.parametrize("url", ["s3://bucket", "s3://bucket/run", "memory://a/b c[1]#?"])
def test_path_of_url_keeps_its_slashes(url):
    path = storage.location(url)
    assert str(path) == os.fspath(path) == url
    assert str(path / "a" / "b") == f"{url}/a/b"
    assert (path / "a").parent == path
    assert str((path / "a" / "b").relative_to(path)) == "a/b"
    assert isinstance(storage.location("runs/a"), pathlib.Path)


def test_subfolders_are_listed(folder):
    assert storage.subfolders(storage.join(folder, "absent")) == []
    for name in ("b/x/y", "a/x", "c"):
        storage.make_folder(storage.join(folder, name.rpartition("/")[0]))
        storage.write(storage.join(folder, name), b"")
    assert storage.subfolders(folder) == ["a", "b"]
    assert storage.is_folder(storage.join(folder, "a"))
    assert not storage.is_folder(storage.join(folder, "c"))
    assert not storage.exists(storage.join(folder, "a"))
    storage.remove(storage.join(folder, "c"))
    storage.remove(storage.join(folder, "c"))
    assert not storage.exists(storage.join(folder, "c"))


class _Flaky(MemoryFileSystem):
    """A file system whose first accesses raise errors."""

    protocol = "flaky"
    store = MemoryFileSystem.store
    failures: ClassVar[list[Exception]] = []
    ranges: ClassVar[list[tuple]] = []

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(path.replace("flaky://", "memory://"))

    def _fail(self):
        if self.failures:
            raise self.failures.pop()

    def info(self, *args, **kwargs):
        self._fail()
        return super().info(*args, **kwargs)

    def ls(self, *args, **kwargs):
        self._fail()
        return super().ls(*args, **kwargs)

    def makedirs(self, *args, **kwargs):
        self._fail()
        super().makedirs(*args, **kwargs)

    def rm(self, *args, **kwargs):
        self._fail()
        super().rm(*args, **kwargs)

    def put_file(self, *args, **kwargs):
        self._fail()
        super().put_file(*args, **kwargs)

    def find(self, *args, **kwargs):
        self._fail()
        return super().find(*args, **kwargs)

    def open(self, *args, **kwargs):
        self._fail()
        return super().open(*args, **kwargs)

    def cat_file(self, path, start=None, end=None, **kwargs):
        self.ranges.append((start, end))
        self._fail()
        return super().cat_file(path, start, end, **kwargs)


@pytest.fixture
def flaky(monkeypatch) -> type[_Flaky]:
    fsspec.register_implementation("flaky", _Flaky, clobber=True)
    monkeypatch.setattr(retries, "FIRST_WAIT", 0.001)
    monkeypatch.setattr(_Flaky, "failures", [])
    monkeypatch.setattr(_Flaky, "ranges", [])
    with storage.writer("flaky://flaky/a") as file:
        file.write(b"0123456789")
    return _Flaky


def test_reads_are_retried(flaky):
    flaky.failures.extend([ConnectionResetError("reset"), TimeoutError(), RuntimeError("503")])
    assert storage.read_range("flaky://flaky/a", 2, 5) == b"234"
    assert flaky.ranges == [(2, 5)] * 4
    flaky.failures.append(OSError("once"))
    assert storage.read("flaky://flaky/a") == b"0123456789"


def test_existence_check_is_repeated_after_an_error(flaky):
    flaky.failures.append(OSError("503"))
    assert storage.exists("flaky://flaky/a")
    flaky.failures.append(OSError("503"))
    assert not storage.exists("flaky://flaky/b")


@pytest.mark.parametrize(
    "error",
    [
        PermissionError("Access Denied"),
        OSError("Forbidden: b/o\nno access"),
        type("NoCredentialsError", (Exception,), {})("Unable to locate credentials"),
        type("RefreshError", (Exception,), {})("token\nexpired"),
    ],
)
def test_denied_access_is_one_sentence_at_once(flaky, error):
    flaky.failures.extend([AssertionError("repeated"), error])
    sentence = r"^Access to flaky://flaky/a is denied \(.*\): check the credentials and the perm"
    with pytest.raises(UnreachableError, match=sentence):
        storage.read("flaky://flaky/a")
    assert len(flaky.failures) == 1


def test_listing_and_scanning_are_retried(flaky):
    folder = "flaky://flaky/listed"
    for name in ("a/b.mp4", ".hidden/c.mp4", "a/.d.mp4"):
        with storage.writer(f"{folder}/{name}") as file:
            file.write(b"x")
    flaky.failures.append(OSError("once"))
    assert list(file_tree.walk(folder)) == ["a/b.mp4"]
    record = b"".join(tfrecord.frame(b"data"))
    with storage.writer(f"{folder}/shard") as file:
        file.write(record + record)
    flaky.failures.append(OSError("once"))
    assert shard_index.scan(f"{folder}/shard", 2 * len(record))["length"].tolist() == [4, 4]
    with pytest.raises(UserError, match="record 1"):  # damage is not retried
        shard_index.scan(f"{folder}/shard", 2 * len(record) - 1)


def test_unreadable_folder_is_one_sentence(tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(errno.EACCES, "Permission denied", path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(UserError, match=r"can't be listed \(Permission denied\)"):
        storage.sizes(str(tmp_path))


def _upload(path):
    with storage.writer(path) as file:
        file.write(b"x")


@pytest.mark.parametrize(
    "access",
    [
        lambda path: storage.fetch(path, io.BytesIO()),
        storage.read,
        storage.sizes,
        lambda path: list(file_tree.walk(path)),
        _upload,
    ],
)
def test_denied_access_is_transient(flaky, access):
    flaky.failures.append(PermissionError("The access key is no longer valid"))
    with pytest.raises(UnreachableError, match=r"flaky/a is denied \(The access key"):
        access("flaky://flaky/a")


def test_full_disk_is_not_retried(flaky):
    class Full(io.BytesIO):
        def write(self, data):
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(
        UnreachableError, match=r"copied to .* \(No space left .* free disk space there"
    ):
        storage.fetch("flaky://flaky/a", Full())
    with pytest.raises(OSError, match="No space"):  # no retry
        retries.with_retries("flaky://flaky/a", Full().write, b"x")


def test_folders_are_created_and_removed(flaky):
    flaky.failures.append(OSError("once"))
    storage.make_folder("flaky://flaky/made")
    assert filesystems.of("flaky://").exists("flaky://flaky/made")
    flaky.failures.append(OSError("once"))
    storage.remove_folder("flaky://flaky/made")
    assert not filesystems.of("flaky://").exists("flaky://flaky/made")
    storage.remove_folder("flaky://flaky/made")


def test_upload_is_retried(flaky):
    flaky.failures.extend([OSError("reset"), TimeoutError()])
    with storage.writer("flaky://flaky/uploaded") as file:
        file.write(b"whole")
    assert storage.read("flaky://flaky/uploaded") == b"whole"


def test_unreachable_storage_is_given_up(flaky):
    flaky.failures.extend([OSError("no route")] * 50)
    no_answer = r"flaky/a can't be reached \(8 tries, .*OSError: no route"
    with pytest.raises(UnreachableError, match=no_answer) as error:
        storage.read_range("flaky://flaky/a", 0, 1)
    assert error.value.status == 1  # a launcher retries
    assert len(flaky.ranges) == 8


def test_missing_file_is_not_retried(flaky):
    with pytest.raises(UserError, match="was removed"):
        storage.read_range("flaky://flaky/b", 0, 1)
    assert len(flaky.ranges) == 1


def test_record_is_one_range_request(flaky):
    names = ("flaky://flaky/shard",)
    shards.write_shard(names[0], [b"one", b"three", b"seven"])
    source = record_source.TFRecordSource({names[0]: storage.sizes("flaky://flaky")["shard"]})
    flaky.ranges.clear()
    assert source[1] == b"three"
    assert flaky.ranges == [(19, 19 + 16 + 5)]


@pytest.mark.parametrize("url", ["gs://b/a", "s3://b", "memory://a:b", "https://h:80/x", "a+b://c"])
def test_urls_are_remote(url):
    assert storage.is_remote(url)


@pytest.mark.parametrize(
    "path",
    [
        "2024-01-01T12:00", "2024-01-01T12:00/x", "a:b", "C:\\videos", "C:/videos", "c://videos",
        "http:/x", "file:x", "./gs://b", "/a/b://c", "a/memory://b", "://x", "-x", "1a://b", ":",
        "", "concat:a|b", "\u00e9://b",
    ],
)  # fmt: skip
def test_paths_with_colons_are_local(path):
    assert not storage.is_remote(path)


def test_file_url_is_remote(tmp_path):
    url = f"file://{tmp_path}/made"
    storage.make_folder(url)
    with storage.writer(f"{url}/a:b.mp4") as file:
        file.write(b"x")
    assert list(file_tree.walk(url)) == ["a:b.mp4"]
    assert storage.read(storage.join(url, "a:b.mp4")) == b"x"
    assert (tmp_path / "made" / "a:b.mp4").read_bytes() == b"x"


def test_urls_and_paths_are_joined():
    assert storage.is_remote("gs://bucket/a")
    assert not storage.is_remote("/a/b:c")
    assert storage.join("gs://bucket/a/", "b") == "gs://bucket/a/b"
    assert os.path.normpath(storage.join("a", "b")) == os.path.join("a", "b")
    assert fsspec.utils.get_protocol(storage.join("s3://b", "c")) == "s3"
