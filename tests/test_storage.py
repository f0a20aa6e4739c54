import os

import fsspec
import pytest

from data_pipelines import storage
from xkd_jax.errors import UserError


@pytest.fixture(params=["local", "memory"])
def folder(request, tmp_path) -> str:
    path = str(tmp_path / "data") if request.param == "local" else f"memory://{tmp_path.name}/data"
    storage.make_folder(path)
    return path


def test_files_survive(folder):
    with storage.writer(storage.join(folder, "a")) as file:
        file.write(b"one")
        file.write(b"two")
    assert storage.read(storage.join(folder, "a")) == b"onetwo"
    assert storage.sizes(folder) == {"a": 6}


def test_a_file_appears_only_when_it_is_complete(folder):
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


def test_what_is_absent(folder):
    with pytest.raises(FileNotFoundError):
        storage.read(storage.join(folder, "absent"))
    with pytest.raises(UserError, match="is not a folder"):
        storage.sizes(storage.join(folder, "absent"))


def test_a_folder_that_can_t_be_made(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="can't be made"):
        storage.make_folder(str(tmp_path / "file" / "folder"))


def test_unknown_stores():
    with pytest.raises(UserError, match=r"nowhere://x can't be opened"):
        storage.filesystem("nowhere://x")


def test_paths():
    assert storage.is_remote("gs://bucket/a")
    assert not storage.is_remote("/a/b:c")
    assert storage.join("gs://bucket/a/", "b") == "gs://bucket/a/b"
    assert os.path.normpath(storage.join("a", "b")) == os.path.join("a", "b")
    assert fsspec.utils.get_protocol(storage.join("s3://b", "c")) == "s3"
