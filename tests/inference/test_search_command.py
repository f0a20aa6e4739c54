"""Search: the nearest windows by cosine, of the same modality and of the other, and their page."""

import shutil

import html_page
import media_files
import numpy as np
import pytest

from xkd_jax import embed, search


def test_windows_are_ordered_by_cosine_for_each_pair_of_modalities():
    rows = {
        "path": ["a", "b", "c"],
        "start": np.array([0.0, 1, 2]),
        "end": np.array([1.0, 2, 3]),
        "video": np.array([[1, 0], [1, 1], [0, 2]], np.float32),
        "audio": np.array([[np.nan, np.nan], [-3, 0], [5, 0]], np.float32),
    }
    query = {"video": np.array([2, 0], np.float32)}
    found = search.nearest(query, rows, 3)
    same = [(m.path, round(m.cosine, 3)) for m in found if m.found == "video"]
    assert same == [("a", 1.0), ("b", 0.707), ("c", 0.0)]
    other = [(m.path, m.cosine, m.start, m.end) for m in found if m.found == "audio"]
    assert other == [("c", 1.0, 2.0, 3.0), ("b", -1.0, 1.0, 2.0)]
    assert [m.path for m in search.nearest(query, rows, 1)] == ["a", "c"]
    # other widths can't be compared
    wide = {**rows, "audio": np.zeros((3, 4), np.float32)}
    assert {m.found for m in search.nearest(query, wide, 3)} == {"video"}


def test_the_page_escapes_names_and_plays_the_window():
    match = search.Match("video", "audio", 0.5, '/tmp/<b>"&.wav', 1.5, 2.0)
    page = html_page.parse(search.page("<script>.mp4", [match]))
    assert page.first("h1").text == "Nearest to <script>.mp4"
    assert [cell.text for cell in page.all("tbody td")][:1] == ['/tmp/<b>"&.wav']
    sources = [e.attributes["src"] for e in page.all("video") + page.all("audio")]
    assert sources[1] == "file:///tmp/%3Cb%3E%22%26.wav#t=1.5,2"


@pytest.fixture(scope="module")
def features(checkpoint, tmp_path_factory):
    source = tmp_path_factory.mktemp("source")
    rng = np.random.default_rng(0)
    for name, hertz in (("low", 300), ("high", 3000)):
        frames = [rng.integers(0, 255, (48, 64, 3)).astype(np.uint8) for _ in range(15)]
        sound = media_files.tone(0.5, 16000, hertz)
        media_files.write(source / f"{name}.avi", frames, sound=sound, sample_rate=16000)
    out = tmp_path_factory.mktemp("features")
    arguments = [f"--checkpoint={checkpoint}", f"--source={source}", f"--output={out}"]
    assert embed.main([*arguments, "--workers=0"]) == 0
    return source, out


def test_a_file_finds_itself_first(features, tmp_path, capsys):
    source, out = features
    query = shutil.copy(source / "high.avi", tmp_path / "query.avi")
    page = tmp_path / "page.html"
    arguments = [str(query), f"--features={out}", "--count=1", f"--page={page}"]
    capsys.readouterr()
    assert search.main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition("  ")[0] for line in lines] == [
        "video -> video", "video -> audio", "audio -> video", "audio -> audio",
    ]  # fmt: skip
    for line in (lines[0], lines[3]):
        assert f"1.0000  {source / 'high.avi'}  0.00 to 0.50 s" in line
    assert "high.avi" in page.read_text()


def test_invalid_arguments_are_one_sentence(features, tmp_path, capsys):
    source, out = features
    query = str(source / "low.avi")
    for arguments, words in (
        ([query, f"--features={tmp_path}"], "give a folder that python -m xkd_jax.embed made"),
        ([query, f"--features={out}", "--count=0"], "give 1 to 1000"),
        ([str(tmp_path / "no.mp4"), f"--features={out}"], "can't be used (missing)"),
    ):
        assert search.main(arguments) == 2
        assert words in capsys.readouterr().err


def test_other_weights_are_refused(features, checkpoint, tmp_path, capsys, monkeypatch):
    source, out = features
    shutil.copytree(out, tmp_path / "copy")
    settings = tmp_path / "copy" / "settings.json"
    settings.write_text(settings.read_text().replace('"student"', '"teacher"'))
    assert search.main([str(source / "low.avi"), f"--features={tmp_path / 'copy'}"]) == 2
    assert "was made with other weights" in capsys.readouterr().err
