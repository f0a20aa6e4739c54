"""benchmarks.random_encoders: its files are those that are loaded, and its table has every kind."""

import numpy as np
import pytest

import xkd_jax
from benchmarks import random_encoders
from benchmarks.random_encoders import KINDS


def sections(keys):
    """Keys of an evaluation as arguments of `load`."""
    found = {}
    for key, value in keys.items():
        section, _, name = key.partition(".")
        if name:
            found.setdefault(section, {})[name] = value
        else:
            found[section] = value
    return found


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_files_are_loaded_with_the_keys_of_their_kind(tmp_path, kind):
    path = random_encoders.write(kind, tmp_path)
    model = xkd_jax.load(path, **sections(kind.keys))
    assert model.modalities == kind.modalities
    assert model.origin.family == kind.name.partition(",")[0]
    for config in model.config.values():
        assert (config.transformer.width, config.transformer.depth) == (96, 2)
        spectrogram = getattr(config.view, "spectrogram", None)
        assert spectrogram in (None, "log_mel" if kind.name.startswith("XKD") else "kaldi")
    for tensor in model.tensors().values():
        assert np.isfinite(tensor).all()


def test_the_table_has_a_row_for_each_kind_and_a_cell_for_each_encoder(
    tmp_path, monkeypatch, capsys
):
    asked = []

    def accuracy(kind, path, modality, shards, workdir):
        asked.append((kind.name, shards, modality, workdir.name))
        return 10 + len(asked)

    monkeypatch.setattr(random_encoders, "accuracy", accuracy)
    monkeypatch.setattr(random_encoders, "digits", lambda output: "digits")
    monkeypatch.setattr(random_encoders, "recordings", lambda source, output: "recordings")
    random_encoders.main([f"--output={tmp_path}", "--recordings=x"])
    rows = capsys.readouterr().out.splitlines()[2:]
    assert rows[0] == "| XKD, video | 11.0 |  |  |"
    assert rows[4] == "| CAV-MAE | 17.0 | 18.0 | 19.0 |"
    assert len(rows) == len(KINDS) == 6
    assert len({name for *_, name in asked}) == len(asked) == 11


def test_recordings_that_are_missing_are_one_sentence(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(random_encoders, "digits", lambda output: "digits")
    with pytest.raises(SystemExit) as ended:
        random_encoders.main([f"--output={tmp_path}", "--recordings=absent"])
    assert ended.value.code == 2
    assert capsys.readouterr().err.endswith("absent was not built: see the message above.\n")
