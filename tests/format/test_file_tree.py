"""Listing of a folder with its sub-folders."""

import errno
import os

import pytest

from data_pipelines.errors import UnreachableError, UserError
from data_pipelines.format import file_tree


@pytest.mark.parametrize("code,kind", [(errno.EACCES, UserError), (errno.ESTALE, UnreachableError)])
def test_unlistable_folder_is_an_error(tmp_path, monkeypatch, code, kind):
    for folder in ("open", "closed"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.mp4").touch()
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("closed"):
            raise OSError(code, os.strerror(code), path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(UserError, match=r"closed can't be listed \(") as error:
        list(file_tree.walk(str(tmp_path)))
    assert type(error.value) is kind


def test_name_that_is_not_utf_8_is_refused(tmp_path):
    (tmp_path / "cat").mkdir()
    with open(os.fsencode(tmp_path) + b"/cat/caf\xe9.mp4", "wb"):
        pass
    with pytest.raises(UserError, match=r"has 'cat/caf\\udce9.mp4', .*: rename it"):
        list(file_tree.walk(str(tmp_path)))


def test_first_of_folder_and_link_by_name_is_used(tmp_path, monkeypatch):
    for folder in ("a", "c"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.mp4").touch()
    (tmp_path / "b").symlink_to("c")
    (tmp_path / "d").symlink_to("a")
    walk = os.walk

    def backwards(*args, **options):
        for folder, folders, names in walk(*args, **options):
            folders.sort(reverse=True)
            yield folder, folders, names

    monkeypatch.setattr(os, "walk", backwards)
    assert list(file_tree.walk(str(tmp_path))) == ["a/x.mp4", "b/x.mp4"]
