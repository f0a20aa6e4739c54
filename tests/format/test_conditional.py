"""Conditional writes, in this process and in the emulators of S3 and Google Cloud Storage."""

import threading

import pytest
import stores
from fsspec.implementations.memory import MemoryFileSystem

from data_pipelines.errors import UserError
from data_pipelines.format import conditional, filesystems, storage


@pytest.fixture(scope="module", params=["memory", "s3", "gs"])
def bucket(request):
    with stores.bucket(request.param) as url:
        yield url


@pytest.fixture
def folder(bucket, tmp_path):
    return f"{bucket}/{tmp_path.name}"


def test_object_is_created_only_if_absent(folder):
    url = f"{folder}/a"
    assert conditional.read(url) is None
    version = conditional.write(url, b"one", None)
    assert version is not None
    assert conditional.write(url, b"two", None) is None
    assert conditional.read(url) == conditional.Held(b"one", version)


def test_object_is_replaced_only_if_unchanged(folder):
    url = f"{folder}/a"
    first = conditional.write(url, b"one", None)
    second = conditional.write(url, b"two", first)
    assert second not in (None, first)
    assert conditional.write(url, b"three", first) is None
    assert storage.read(url) == b"two"
    storage.remove(url)
    assert conditional.write(url, b"four", second) is None
    assert not storage.exists(url)


def test_write_whose_answer_was_lost_counts(folder):
    """The retry finds its own content."""
    url = f"{folder}/a"
    first = conditional.write(url, b"one", None)
    assert conditional.write(url, b"one", None) == first


def test_one_of_simultaneous_writers_wins(folder):
    url, won = f"{folder}/a", []
    first = conditional.write(url, b"start", None)

    def attempt(content):
        if conditional.write(url, content, first):
            won.append(content)

    threads = [threading.Thread(target=attempt, args=(b"%d" % n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert won == [storage.read(url)]


def test_store_with_guarantees_is_accepted_and_left_clean(folder):
    conditional.require(folder)
    assert not storage.is_folder(folder)


def test_missing_bucket_is_one_sentence():
    with stores.bucket("s3"), pytest.raises(UserError, match="is in a bucket that does not exist"):
        conditional.require("s3://missing/run")


def test_store_without_conditional_writes_is_refused():
    with pytest.raises(UserError, match=r"ftp://host/run.* without conditional writes.*: give a"):
        conditional.require("ftp://host/run")


class _Careless(MemoryFileSystem):
    """A store that reports every object as absent, as one that ignores conditions does."""

    protocol = "memory"

    def exists(self, path, **options):
        return False


def test_store_that_ignores_conditions_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(filesystems, "of", lambda url: _Careless())
    with pytest.raises(UserError, match="does not create an object only if it is absent, so that"):
        conditional.require(f"memory://{tmp_path.name}/careless")
