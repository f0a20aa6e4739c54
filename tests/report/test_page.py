"""The page of runs: its parts, its list of missing parts, and how a browser shows it."""

import dataclasses
import itertools
import json
import shutil
from pathlib import Path

import browser
import html_page
import miniatures
import noise_shards
import pytest
from method_inputs import change
from result_contents import result_content

from data_pipelines.errors import UserError
from xkd_jax.report import __main__ as report
from xkd_jax.report import evaluation_results, page_file, pretraining_run
from xkd_jax.report.clip_sections import Amounts
from xkd_jax.report.page import page
from xkd_jax.training.logs.progress import Scalars

FEW = Amounts(encoded=12, data=1, reconstructed=1, queries=1)
NETWORKS = [f"{role} {m}" for role in ("student", "teacher") for m in ("video", "audio")]


def write_scalars(folder, loss=2.0):
    scalars = Scalars(folder / "tensorboard", enabled=True, start=0)
    for step in (1, 5, 7):
        scalars.write(step, {"loss": loss / step, "loss/reconstruct_video": 1 / step})
        scalars.write(step, {"collapse/audio_teacher_information": 0.01, "knn/student_video": 50})
    scalars.close()


@pytest.fixture(scope="module")
def run(small, tmp_path_factory):
    """A run with everything that a page shows."""
    folder = tmp_path_factory.mktemp("runs") / "first"
    folder.mkdir()
    shards = noise_shards.write(str(folder / "shards"))
    data = {"dir": shards, "short_side": 16, "threads": 2}
    miniatures.checkpoint(folder, change(small, audio={"hop": 250}, data=data))
    write_scalars(folder)
    scores = {"before": dict.fromkeys(NETWORKS, 51.0), "after": dict.fromkeys(NETWORKS, 87.5)}
    seconds = {"useful": 90.0, "compile": 30.0}
    accounts = {"seconds": seconds, "starts": 2, "reached": 7, "written": 0.0}
    (folder / "goodput.json").write_text(json.dumps(accounts))
    (folder / "results.json").write_text(json.dumps({"linear_probe_top1": scores}))
    return folder


@pytest.fixture(scope="module")
def written(run, tmp_path_factory):
    """The file of its page."""
    file = tmp_path_factory.mktemp("page") / "report.html"
    file.write_text(page([run], [], FEW))
    return file


@pytest.fixture(scope="module")
def root(written):
    return html_page.parse(written.read_text())


def section(root, name):
    return next(s for s in root.all("section") if s.attributes["id"] == name)


def test_every_part_of_a_run_is_shown(root):
    titles = [s.first("h2").text for s in root.all("section")]
    assert titles == [
        "Overview", "Curves", "Data", "Reconstructions and attention",
        "Nearest neighbors and retrieval", "Features in two dimensions", "Results",
        "Settings and versions", "Left out",
    ]  # fmt: skip
    assert "step 7 of 10" in section(root, "overview").text
    assert "Signs of collapse at step 7" in section(root, "overview").text
    goodput = "75.0% of 2 min in useful steps; lost: compile 25.0%; 2 starts"
    assert goodput in section(root, "overview").text
    charts = [h.text for h in section(root, "curves").all("h3")]
    assert charts == [
        "Loss", "Reconstruction error", "Information in a teacher's output, nats",
        "Nearest neighbors, top-1 %",
    ]  # fmt: skip
    assert "2: dark, light" in section(root, "overview").text


def test_galleries_mark_clips_of_the_same_class(root):
    galleries = section(root, "neighbors")
    assert [h.text for h in galleries.all("h3")] == [
        "Nearest neighbors: video", "Nearest neighbors: audio",
        "Retrieval: audio from video", "Retrieval: video from audio",
    ]  # fmt: skip
    captions = [f.text for f in galleries.all("figcaption")]
    marked = [c for c in captions if "class" in c]
    assert len(marked) + sum("same clip" in c for c in captions) == 4 * 5
    query, *found = captions[:6]
    for caption in found:
        assert ("✓ same class" in caption) == (caption.split()[0] == query.split()[0])
    assert "by chance it would be 50%" in galleries.text


def test_reconstructions_stand_beside_input_mask_and_attention(root):
    found = section(root, "reconstructions")
    (figure,) = found.all("figure")
    heads = [div for div in figure.all("div") if div.attributes.get("class") == "panels"]
    panels = [[span.text for span in head.all("span")] for head in heads]
    assert panels == [["input", "masked", "reconstruction", "attention"]] * 2
    assert len(figure.all("video")) == 1
    labels = [a.attributes["aria-label"].partition(":")[0] for a in figure.all("audio")]
    assert labels == ["Input", "Reconstruction"]


def test_results_stand_beside_chance(root):
    rows = [[c.text for c in row.all("td")] for row in section(root, "results").all("tbody tr")]
    assert rows == [[network, "51.0", "87.5", "50.0"] for network in NETWORKS]
    assert "evaluations" in section(root, "left-out").text


def test_page_is_usable_by_screen_reader_and_keyboard(root):
    assert root.first("html").attributes["lang"] == "en"
    assert [len(root.all(name)) for name in ("header", "main", "nav", "h1")] == [1] * 4
    levels = [int(e.name[1]) for e in root.everything() if e.name in ("h1", "h2", "h3")]
    assert all(b - a <= 1 for a, b in itertools.pairwise(levels))
    anchors = {e.attributes["id"] for e in root.everything() if "id" in e.attributes}
    for link in root.all("a"):
        assert link.attributes["href"].removeprefix("#") in anchors
    for image in root.all("img"):
        assert image.attributes["alt"]
    for player in root.all("video") + root.all("audio"):
        assert player.attributes["aria-label"]
        assert "controls" in player.attributes  # without scripts too
    for picture in root.all("svg"):
        assert picture.attributes["role"] == "img"
        assert picture.first("title").text
    for heading in root.all("th"):
        assert heading.attributes["scope"] in ("col", "row")


def test_page_needs_no_network(root):
    (policy,) = [e for e in root.all("meta") if e.attributes.get("http-equiv")]
    assert policy.attributes["content"].startswith("default-src 'none'")
    assert "media-src data:" in policy.attributes["content"]
    for element in root.everything():
        for name in ("src", "href", "poster"):
            assert element.attributes.get(name, "#").startswith(("data:", "#"))


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    with browser.opened(tmp_path_factory.mktemp("chromium")) as tab:
        yield tab


PLAY_ALL = """(async () => {
  const bad = [];
  for (const media of document.querySelectorAll("video, audio")) {
    await media.play();
    if (media.error || !(media.duration > 0)) bad.push(media.getAttribute("aria-label"));
  }
  return bad;
})()"""


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_browser_shows_page_without_errors(chromium, written, width, scheme):
    chromium.open(written, width, scheme)
    assert chromium.run("document.documentElement.scrollWidth") <= width
    background = chromium.run("getComputedStyle(document.body).backgroundColor")
    before = sum(map(int, background.removeprefix("rgb(").rstrip(")").split(",")))
    assert (before > 384) == (scheme == "light")
    chromium.run("document.getElementById('theme').click()")
    assert chromium.run("getComputedStyle(document.body).backgroundColor") != background
    assert chromium.problems == []


def test_browser_plays_every_clip(chromium, written):
    chromium.open(written, 1280, "light")
    assert chromium.run("document.querySelectorAll('video, audio').length") > 20
    assert chromium.run(PLAY_ALL) == []
    buttons = "document.querySelectorAll('button.play').length"
    assert chromium.run(buttons) == chromium.run("document.querySelectorAll('.clip').length")
    assert chromium.problems == []


def test_browser_shows_values_of_a_chart_by_arrow_keys(chromium, written):
    chromium.open(written, 1280, "light")
    chromium.run("document.querySelector('figure.chart svg').focus()")
    for _ in range(2):
        chromium.send("Input.dispatchKeyEvent", type="keyDown", key="ArrowRight")
    assert chromium.run("document.querySelector('figure.chart output').textContent") == (
        "step 5: loss 0.400"
    )


def left_out(text):
    table = section(html_page.parse(text), "left-out")
    rows = [row.all("th") + row.all("td") for row in table.all("tbody tr")]
    return {tuple(cell.text for cell in row[:2]): row[2].text for row in rows}


def test_missing_parts_of_runs_are_listed(run, tmp_path):
    """Two runs: one without its data, one with config and curves only."""
    for name in ("moved", "bare"):
        (tmp_path / name).mkdir()
    shutil.copytree(run / "checkpoints", tmp_path / "moved" / "checkpoints")
    write_scalars(tmp_path / "bare", loss=3.0)
    record = pretraining_run.read(run, "run").record
    config = record.config | {"data": record.config["data"] | {"dir": "/nowhere"}}
    (tmp_path / "bare" / "config.json").write_text(json.dumps(config))
    (run / "shards").rename(run / "away")
    try:
        text = page([tmp_path / "moved", tmp_path / "bare"], [], FEW)
    finally:
        (run / "away").rename(run / "shards")
    found = left_out(text)
    clips = "Data, Reconstructions and attention, Nearest neighbors and retrieval,"
    clips += " Features in two dimensions"
    reasons = {key: why.partition(":")[0] for key, why in found.items() if key[1] != "evaluations"}
    assert reasons == {
        ("moved", "curves"): "the run has no scalars in its folder tensorboard.",
        ("moved", "linear probes"):
            "the run has no results.json",
        ("moved", "goodput"): "the run has no goodput.json.",
        ("moved", clips): f"{run / 'shards'} is not a folder",
        ("bare", "checkpoint"): "the run has no folder checkpoints.",
        ("bare", "linear probes"): "the run has no results.json",
        ("bare", "goodput"): "the run has no goodput.json.",
        ("bare", clips): "the network can't be read.",
    }  # fmt: skip
    settings = section(html_page.parse(text), "settings")
    differing = settings.all("tbody")[0]
    assert [row.first("th").text for row in differing.all("tr")] == ["data.dir"]


def test_several_runs_share_a_chart_and_stand_side_by_side(run, tmp_path):
    other = tmp_path / "second"
    shutil.copytree(run, other)
    shutil.rmtree(other / "tensorboard")
    write_scalars(other, loss=3.0)
    text = page([run, other], [], dataclasses.replace(FEW, encoded=4))
    root = html_page.parse(text)
    chart = section(root, "curves").first("figure")
    assert [e.text for e in chart.all("li")] == ["first", "second"]
    assert len(chart.all("polyline")) == 2
    runs = section(root, "neighbors").first("div").attributes["class"]
    assert runs == "runs"
    assert [h.text for h in section(root, "data").all("h3")] == ["first", "second"]
    assert (
        "too few clips"
        in left_out(page([other], [], dataclasses.replace(FEW, encoded=4)))[
            ("second", "Features in two dimensions")
        ]
    )


def test_command_writes_page_and_prints_its_path(run, tmp_path, capsys):
    output = tmp_path / "report.html"
    shutil.copytree(run / "tensorboard", tmp_path / "a" / "tensorboard")
    record = pretraining_run.read(run, "run").record
    (tmp_path / "a" / "config.json").write_text(json.dumps(record.config))
    assert report.main([str(tmp_path), f"--output={output}"]) == 0
    assert f"report    {output} (0." in capsys.readouterr().out
    assert html_page.parse(output.read_text()).first("h1").text == "XKD report: a"


def test_evaluations_of_a_run_stand_beside_the_published_numbers(run, tmp_path):
    bare, beside = tmp_path / "bare", tmp_path / "bare_ucf101"
    for folder in (bare, beside):
        folder.mkdir()
    record = pretraining_run.read(run, "run").record
    (bare / "config.json").write_text(json.dumps(record.config))
    result = result_content(
        chance=50.0, checkpoint={"source": str(bare), "step": 9},
        data={"name": "ucf101", "class_names": ["<b>", "c"]},
    )  # fmt: skip
    (beside / "result.json").write_text(json.dumps(result))
    runs, others = pretraining_run.runs_in([bare, bare / ".." / "bare", tmp_path])
    assert (runs, others) == ([bare], [tmp_path])
    root = html_page.parse(page(runs, evaluation_results.load([str(tmp_path)]), FEW))
    results = section(root, "results")
    (row,) = results.all("tbody tr")
    cells = [cell.text for cell in row.all("th") + row.all("td")]
    assert cells[:4] == ["ucf101", "ucf101", "svm", "video"]
    assert cells[-4:] == ["70.0 top-1", "50.0", "", "83.8 (K400), 88.4 (AudioSet)"]
    assert "2 classes of ucf101" in results.text
    assert "<b>, c" in results.text


def test_failed_page_does_not_fail_the_run(run, tmp_path, capsys):
    (tmp_path / "config.json").write_text("{")
    page_file.write_at_end(tmp_path, replace=True)
    assert "The run has ended, and its report can't be written: " in capsys.readouterr().err
    record = pretraining_run.read(run, "run").record
    (tmp_path / "config.json").write_text(json.dumps(record.config))
    (tmp_path / "report.html").mkdir()
    page_file.write_at_end(tmp_path, replace=True)
    assert "report.html can't be written (" in capsys.readouterr().err
    (tmp_path / "report.html").rmdir()
    page_file.write_at_end(tmp_path, replace=True)
    assert f"report    {tmp_path / 'report.html'} (" in capsys.readouterr().out
    page_file.write_at_end(tmp_path, replace=False)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    "arguments,words",
    [
        (["--output=x.html"], "is not the folder of a pretraining run: give one"),
        (["--output=x.html", "--clips=0"], "--clips=0: give 1 to 5000"),
    ],
)
def test_invalid_arguments_are_one_sentence(tmp_path, capsys, arguments, words):
    (tmp_path / "result.json").write_text("{}")
    (tmp_path / "empty").mkdir()
    assert report.main([str(tmp_path / "empty"), *arguments]) == 2
    assert words in capsys.readouterr().err


def test_unusable_config_is_named(tmp_path):
    (tmp_path / "config.json").write_text('{"batch_sise": 3}')
    with pytest.raises(UserError, match=r"its config\.json can't be used .*batch_sise"):
        pretraining_run.read(tmp_path, "a")


def test_names_are_the_shortest_that_differ():
    paths = [Path("/runs/a/demo"), Path("/runs/b/demo"), Path("/runs/c")]
    assert pretraining_run.names(paths) == ["a/demo", "b/demo", "runs/c"]
    assert pretraining_run.names(paths[:1]) == ["demo"]
