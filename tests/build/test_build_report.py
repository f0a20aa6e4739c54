import dataclasses
import re

import fake_terminal

from data_pipelines.build.build_progress import BuildProgress
from data_pipelines.build.build_report import BuildReport, LeftOut, next_command, summary
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


def test_summary_names_option_that_uses_files_without_modality():
    remedy = "to use the 1 with no audio, build again with --modalities=video"
    assert remedy in summary(_report(3), "out").splitlines()
    assert "--modalities" not in summary(_report(3, both=False), "out")
    assert "--modalities" not in summary(_report(1), "out")


def test_summary_of_many_left_out_files_refers_to_report():
    text = summary(_report(50), "out")
    assert text.count("(why)") == 20
    assert "30 more in report.json" in text


def test_summary_without_left_out_files():
    assert "no file left out of 1,300" in summary(_report(0), "out")


def test_progress_has_count_rate_time_left_and_left_out_files(clock, capsys):
    with BuildProgress(400) as progress:
        for i in range(100):
            clock[0] = 0.4 * (i + 1)
            progress(FileResult(reason="no audio" if i < 7 else ""))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "built      25/400  2.5 files/s  left out 7  left 2 min"
    assert lines[-1] == "built     100/400  2.5 files/s  left out 7  left 2 min"
    assert len(lines) == 4  # one in ten seconds


def test_last_progress_line_has_all_files(clock, capsys):
    with BuildProgress(2) as progress:
        progress(FileResult())
        assert capsys.readouterr().out == ""
        clock[0] = 0.5
        progress(FileResult())
    assert capsys.readouterr().out == "built     2/2  4 files/s  left out 0  left 0 s\n"


def test_progress_on_a_terminal_is_one_bar(clock, monkeypatch):
    out = fake_terminal.use(monkeypatch)
    with BuildProgress(4) as progress:
        for clock[0] in (1.0, 2.0):
            progress(FileResult())
    assert re.match(r"built     2/4 \|█{10} {10}\| .*, 1 files/s  left out 0$", out.in_place()[-1])
    assert out.screen() == []


def test_next_command_fits_split_and_modalities_of_the_records():
    assert next_command(_report(0), "my shards") == (
        "python -m data_pipelines.preview --config=configs/k400.py --config.data.dir='my shards'"
    )
    alone = next_command(_report(0, both=False), "out")
    assert "--config=configs/k400.py:reconstruction_audio --config.data.dir=out" in alone
    other = dataclasses.replace(_report(0), records={"all": 3})
    assert next_command(other, "out").endswith(" --config.data.dir=out --config.data.split=all")
