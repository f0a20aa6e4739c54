"""benchmarks.first_hour: the README's commands from a folder of videos to a result."""

import ast
import json
from pathlib import Path

import media_files
import pytest

from benchmarks import first_hour
from data_pipelines.format import metadata
from xkd_jax import command_line
from xkd_jax.config import evaluation, pretraining


def _resolved(command, module):
    given = [flag.removeprefix("--") for flag in command if flag.startswith("--config")]
    flags = dict(flag.split("=", 1) for flag in given)
    raw = command_line.read_config(str(first_hour.ROOT / flags.pop("config")))
    for key, text in flags.items():
        name = key.removeprefix("config.")
        with raw.unlocked():
            try:
                value = ast.literal_eval(text)
            except (ValueError, SyntaxError):
                value = text
            raw.update_from_flattened_dict({name: value})
    return module.resolve(raw)


def test_shards_fit_network_and_its_evaluation():
    parts = first_hour.parts("VIDEOS", Path("OUT"), 7, ["--config.batch_size=4"])
    config = _resolved(parts["pretraining"], pretraining)
    assert (config.max_steps, config.batch_size, config.data.dir) == (7, 4, "OUT/shards")
    assert f"--short_side={config.data.short_side}" in parts["shards"]
    assert _resolved(parts["preview"], pretraining) == config
    found = _resolved(parts["nearest neighbors"], evaluation)
    assert (found.data.dir, found.checkpoint) == ("OUT/shards", "OUT/run")
    made = metadata.Metadata(
        "folder", config.video.frame_rate, config.data.short_side, config.audio.sample_rate,
        config.audio.fft, config.audio.hop, config.audio.mels,
    )  # fmt: skip
    metadata.check_config(made, config, "OUT/shards")


def test_part_that_fails_ends_it_with_its_status(tmp_path, capfd):
    (tmp_path / "empty").mkdir()
    arguments = [f"--source={tmp_path / 'empty'}", f"--output={tmp_path / 'out'}"]
    assert first_hour.main(arguments) == 2
    told = capfd.readouterr()
    assert "has no files" in told.err
    assert told.err.endswith("error: shards ended with status 2: see its message above.\n")
    assert "preview" not in told.out


@pytest.mark.heavy
def test_folder_of_videos_gets_a_number_and_times(tmp_path, capfd, monkeypatch):
    monkeypatch.delenv("XLA_FLAGS", raising=False)  # which would give each command eight devices
    for name, level in (("dark", 40), ("bright", 200)):
        (tmp_path / "videos" / name).mkdir(parents=True)
        for i in range(4):
            frames = media_files.gray_frames([level + 2 * i] * 40)
            sound = media_files.tone(1.5, 16000, 10.0 * level)
            path = tmp_path / "videos" / name / f"{i}.mp4"
            media_files.write(path, frames, sound=sound, sample_rate=16000, sound_codec="aac")
    output = tmp_path / "out"
    arguments = [f"--source={tmp_path / 'videos'}", f"--output={output}", "--steps=1"]
    assert first_hour.main([*arguments, "--config.batch_size=4"]) == 0
    told = capfd.readouterr().out
    assert "held out 2 of 8 files as the split test" in told
    found = json.loads((output / "knn" / "result.json").read_text(encoding="utf-8"))
    assert (found["chance"], found["data"]["class_names"]) == (50.0, ["bright", "dark"])
    assert (output / "preview.png").exists()
    assert "| own | folder | knn | video |" in told
    times = [line.split("  ")[0] for line in told.splitlines()[-6:]]
    assert times == [*first_hour.parts("", output, 1), "total"]
