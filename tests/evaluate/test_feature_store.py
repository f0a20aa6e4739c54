"""Folders of stored features."""

import errno
import json
import os
import shutil

import numpy as np
import pytest
from failing_calls import system_error
from stored_files import truncate

from data_pipelines import lease
from data_pipelines.errors import UnreachableError, UserError
from data_pipelines.format import storage
from xkd_jax.evaluate.feature_store import FeatureStore
from xkd_jax.parallel import processes

RECORDS, CLIPS = 3, 2
MADE_FROM = {"step": 7, "modalities": ("audio",)}


def _store(folder, made_from=MADE_FROM):
    return FeatureStore(folder, made_from, RECORDS, CLIPS)


def _batch(first):
    """Three clips whose features are their indices."""
    clips = np.arange(first, first + 3)
    audio = np.tile(clips[:, None, None], (1, 1, 4)).astype(np.float32)
    return {"audio": audio, "label": clips // CLIPS}


def _extract(folder, batches=(0, 3)):
    store = _store(folder)
    with store.opened():
        store.allocate(_batch(batches[0]))
        for first in batches:
            store.write(first, _batch(first))
        store.save()
    return store


def _read(folder):
    return _store(folder).read(np.arange(RECORDS))


def test_written_features_are_read(tmp_path):
    _extract(tmp_path / "set", (0,))
    store = _store(tmp_path / "set")
    with store.opened():
        assert store.done == 3
        store.allocate(_batch(3))
        store.write(3, _batch(3))
        store.save()
    found = _read(tmp_path / "set")
    assert found.features["audio"][:, :, 0, 0].tolist() == [[0, 1], [2, 3], [4, 5]]
    assert found.target.tolist() == [0, 1, 2]


def test_features_in_bucket_are_added_in_parts(tmp_path):
    folder = storage.Url(f"memory://{tmp_path.name}/set")
    _extract(folder, (0,))
    store = _store(folder)
    with store.opened():
        assert store.done == 2  # only whole records
        store.allocate(_batch(0))
        for first in (0, 3):
            store.write(first, _batch(first))
        store.save()
    found = _read(folder)
    assert found.features["audio"][:, :, 0, 0].tolist() == [[0, 1], [2, 3], [4, 5]]
    assert found.target.tolist() == [0, 1, 2]
    parts = sorted(name for name in storage.sizes(str(folder)) if name.endswith("label.npy"))
    assert parts == ["000000000-000000001.label.npy", "000000001-000000003.label.npy"]
    storage.remove(str(folder / parts[1]))
    with pytest.raises(
        UserError, match=rf"{folder} are damaged \(.*{parts[1]} is missing\): delete"
    ):
        _read(folder)


def test_only_one_evaluation_writes_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(lease, "HEARTBEAT", 0.05)
    monkeypatch.setattr(lease, "PATIENCE", 0.1)
    first, second = _store(tmp_path), _store(tmp_path)
    with first.opened():
        first.allocate(_batch(0))
        with pytest.raises(UserError, match="Another evaluation is extracting"), second.opened():
            pass
        for start in (0, 3):
            first.write(start, _batch(start))
        first.save()
        with second.opened():  # a complete set needs no lease
            assert second.done == second.rows
    assert _read(tmp_path).features["audio"].max() == 5


def _change(key, value):
    def change(folder):
        path = folder / "manifest.json"
        content = json.loads(path.read_text())
        content[key] = value
        path.write_text(json.dumps(content))

    return change


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "manifest.json").write_text(""),
        lambda folder: (folder / "manifest.json").write_text("[]"),
        lambda folder: (folder / "manifest.json").write_bytes(b"\xff{"),
        _change("clips_done", "6"),
        _change("clips_done", 60),
        _change("arrays", {"audio": 3}),
        _change("arrays", {}),
        _change("made_from", {"step": 8}),
        lambda folder: (folder / "label.npy").unlink(),
        lambda folder: truncate(folder / "audio.npy"),
        lambda folder: (folder / "audio.npy").write_bytes(b""),
        lambda folder: np.save(folder / "audio.npy", np.zeros((RECORDS, CLIPS, 1, 5), np.float32)),
        lambda folder: np.save(folder / "label.npy", np.zeros(RECORDS, np.int32)),
    ],
)
def test_damage_names_folder_and_remedy(tmp_path, damage):
    folder = tmp_path / "set"
    _extract(folder)
    damage(folder)
    sentence = r"/set are damaged .*: delete that folder"
    with pytest.raises(UserError, match=sentence), _store(folder).opened():
        pass
    shutil.rmtree(folder)
    _extract(folder)
    assert _read(folder).target.tolist() == [0, 1, 2]


@pytest.mark.parametrize("code,kind", [(errno.ESTALE, UnreachableError), (errno.EACCES, UserError)])
def test_unreadable_features_are_not_damage(tmp_path, monkeypatch, code, kind):
    _extract(tmp_path / "set")

    def refuse(path, **_):
        raise OSError(code, os.strerror(code), str(path))

    monkeypatch.setattr(np, "load", refuse)
    sentence = rf"/set can't be read \(.*{os.strerror(code)}.*\): make them readable"
    with pytest.raises(UserError, match=sentence) as error, _store(tmp_path / "set").opened():
        pass
    assert type(error.value) is kind


def test_part_with_other_width_is_not_resumed(tmp_path):
    _extract(tmp_path, (0,))
    store = _store(tmp_path)
    with store.opened(), pytest.raises(UserError, match=r"audio\.npy has another shape"):
        store.allocate({"audio": np.zeros((3, 1, 8), np.float32), "label": np.zeros(3, int)})


def test_missing_disk_space_is_refused_before_writing(tmp_path, monkeypatch):
    store = _store(tmp_path)
    with monkeypatch.context() as patch, store.opened():
        patch.setattr(os, "posix_fallocate", system_error(errno.ENOSPC))
        with pytest.raises(UserError, match=r"can't take 120 bytes .*No space left.* are free"):
            store.allocate(_batch(0))
    assert not list(tmp_path.glob("*.npy"))
    _extract(tmp_path)
    audio = (tmp_path / "audio.npy").stat()
    assert audio.st_blocks * 512 >= audio.st_size  # its disk space is allocated


@pytest.mark.parametrize("folder", ["file", "file/below"])
def test_file_in_place_of_folder_is_refused(tmp_path, folder):
    (tmp_path / "file").write_text("")
    store, sentence = _store(tmp_path / folder), r"can't be written to .*--config\.features"
    with pytest.raises(UserError, match=sentence), store.opened():
        pass


@pytest.mark.parametrize("kind", [UserError, UnreachableError])
def test_refusal_of_main_process_ends_all_processes(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(processes, "is_main_process", lambda: False)
    monkeypatch.setattr(processes, "global_max", lambda here: kind.status)
    store = _store(tmp_path / "set")
    sentence = "Another process of the run failed"
    with pytest.raises(UserError, match=sentence) as error, store.opened():
        pass
    assert type(error.value) is kind
    assert not (tmp_path / "set").exists()
