import io

from data_pipelines.build.build_progress import BuildProgress
from data_pipelines.build.build_report import BuildReport, LeftOut, summary
from data_pipelines.build.ingest import FileResult


def _report(left_out: int, both: bool = True) -> BuildReport:
    entries = [
        LeftOut("train", f"{i}.mp4", "no audio" if i % 2 else "damaged", "why")
        for i in range(left_out)
    ]
    options = {"media": {"video": both, "audio": True}}
    return BuildReport("toy", "digest", options, {"train": 1200, "test": 3}, 1300, entries)


def test_summary_names_files_and_reasons():
    text = summary(_report(3), "out")
    assert "toy has 1,203 records (train 1,200, test 3)" in text
    assert "left out 3 of 1,300 files: 2 damaged, 1 no audio" in text
    assert "1.mp4: no audio (why)" in text


def test_summary_names_the_option_that_uses_files_without_a_modality():
    remedy = "to use the 1 with no audio, build again with --modalities=video"
    assert remedy in summary(_report(3), "out").splitlines()
    assert "--modalities" not in summary(_report(3, both=False), "out")
    assert "--modalities" not in summary(_report(1), "out")


def test_summary_of_many_points_at_the_report():
    text = summary(_report(50), "out")
    assert text.count("(why)") == 20
    assert "30 more in report.json" in text


def test_summary_of_none():
    assert "no file left out of 1,300" in summary(_report(0), "out")


def test_progress_counts_rate_time_left_and_what_is_left_out(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("data_pipelines.progress.time.perf_counter", lambda: clock[0])
    out = io.StringIO()
    progress = BuildProgress(400, out)
    for i in range(100):
        clock[0] = 0.4 * (i + 1)
        progress(FileResult(reason="no audio" if i < 7 else ""))
    lines = out.getvalue().splitlines()
    assert lines[0] == "built     25/400  2.5 files/s  left 2 min  left out 7"
    assert lines[-1] == "built     100/400  2.5 files/s  left 2 min  left out 7"
    assert len(lines) == 4  # one in ten seconds


def test_progress_ends_with_a_line():
    out = io.StringIO()
    progress = BuildProgress(2, out)
    progress(FileResult())
    assert out.getvalue() == ""
    progress(FileResult())
    assert out.getvalue().startswith("built     2/2  ")
