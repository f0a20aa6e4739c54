"""Names that are not ASCII give the same bytes in any locale and terminal."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys

import media_files
import pytest
from stored_files import digests

from data_pipelines.format import storage
from data_pipelines.read.dataset import open_dataset
from xkd_jax.config.pretraining import Config

ROOT = pathlib.Path(__file__).parents[2]
LOCALES = {
    "utf-8": {"LC_ALL": "C.UTF-8", "PYTHONUTF8": "1"},
    "C": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
}
CLASS, FILE = "caf\u00e9 \u6771", "\u00e9t\u00e9 \U0001f3a5.mp4"


def _run(locale: dict[str, str], *command: str) -> subprocess.CompletedProcess[bytes]:
    names = ("LC_ALL", "LANG", "LC_CTYPE", "PYTHONUTF8", "PYTHONIOENCODING")
    kept = {name: value for name, value in os.environ.items() if name not in names}
    return subprocess.run(
        [sys.executable, *command], env={**kept, **locale, "PYTHONPATH": str(ROOT)}, cwd=ROOT,
        capture_output=True, check=False,
    )  # fmt: skip


def _build(source: pathlib.Path, output: pathlib.Path, locale: dict[str, str]) -> str:
    done = _run(
        locale, "-m", "data_pipelines.build", "--dataset=folder", f"--source={source}",
        f"--output={output}", "--workers=1", "--modalities=video",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("d") / "donn\u00e9es"
    (folder / CLASS).mkdir(parents=True)
    media_files.write(folder / CLASS / FILE, media_files.gray_frames([60] * 30))
    (folder / CLASS / "\u00e9cran.mp4").write_text("no video")
    return folder


def test_output_does_not_depend_on_locale(source, tmp_path):
    printed = {name: _build(source, tmp_path / name, locale) for name, locale in LOCALES.items()}
    assert digests(tmp_path / "C") == digests(tmp_path / "utf-8")
    dataset = open_dataset(Config(), str(tmp_path / "C"), "train", ("video",))
    assert dataset.metadata.class_names == (CLASS,)
    assert (dataset[0].path, dataset[0].label_text) == (f"{CLASS}/{FILE}", CLASS)
    report = json.loads((tmp_path / "C" / "report.json").read_text())
    assert report["left_out"][0]["path"] == f"{CLASS}/\u00e9cran.mp4"
    assert report["options"]["source"] == str(source)
    assert "\u00e9cran.mp4: unreadable" in printed["utf-8"]
    assert r"\xe9cran.mp4: unreadable" in printed["C"]


# Names in a UTF-8 list, and the files found for them in a locale.
WALK = """
import os, sys
from data_pipelines.format import file_tree, storage
directory = sys.argv[1]
for name in sorted(file_tree.walk(directory)):
    print(name.encode().hex(), storage.exists(storage.join(directory, name)))
"""


@pytest.mark.parametrize("name", ["caf\u00e9.mp4", "\u6771\u4eac/a.mp4", "\U0001f3a5.mp4", "a.mp4"])
@pytest.mark.parametrize("locale", LOCALES.values(), ids=LOCALES)
def test_names_are_utf_8_in_every_locale(tmp_path, name, locale):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).touch()
    done = _run(locale, "-c", WALK, str(tmp_path))
    assert done.stdout.decode().split() == [name.encode().hex(), "True"], done.stderr


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8", "euc-jp"])
def test_paths_are_converted_between_locale_and_text(monkeypatch, encoding):
    """Emulates Python in that locale: os.fsencode and os.fsdecode by its encoding."""
    monkeypatch.setattr(os, "fsencode", lambda path: path.encode(encoding, "surrogateescape"))
    monkeypatch.setattr(os, "fsdecode", lambda data: data.decode(encoding, "surrogateescape"))
    for text in ("plain", "caf\u00e9", "\u6771/\u4eac", "\U0001f3a5"):
        there = text.encode().decode(encoding, "surrogateescape")  # as returned by os.walk
        assert storage.as_text(there) == text
        assert os.fsencode(storage.join("d", text)) == f"d/{text}".encode()
