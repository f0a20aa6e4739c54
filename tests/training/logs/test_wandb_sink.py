"""Metrics at Weights & Biases, without a network."""

import dataclasses
import json
import sys

import noise_shards
import numpy as np
import pytest
from method_inputs import change

from data_pipelines.errors import UserError
from xkd_jax.training import train as training
from xkd_jax.training.logs import run_sinks


@pytest.fixture
def offline(monkeypatch):
    wandb = pytest.importorskip("wandb", reason="the extra 'wandb' is not installed")
    wandb.teardown()  # forget the environment variables that were read
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.delenv("WANDB_DIR", raising=False)
    return wandb


def test_starts_of_a_run_continue_one_run_of_the_project(offline, tmp_path, capfd, monkeypatch):
    for start in (0, 2):
        # the package names its folders by the second
        monkeypatch.setenv("WANDB_DIR", str(tmp_path / f"start{start}"))
        (tmp_path / f"start{start}").mkdir()
        sinks = run_sinks.opened(tmp_path, start, {}, project="videos", settings={"seed": 7})
        for step in (1, 2):
            sinks.write(start + step, {"loss": 1.5, "speed/clips_per_second": float("nan")})
        sinks.draw(start + 2, {"reconstruction/video": np.zeros((4, 5, 3), np.uint8)})
        sinks.close()
    offline.teardown()  # as at the end of a process: it waits until the files are written
    printed = capfd.readouterr()
    assert [line[:10] for line in printed.out.splitlines()] == ["wandb     "] * 2
    assert printed.err == ""
    name = json.loads((tmp_path / "wandb.json").read_text())["id"]
    logs = sorted(tmp_path.glob(f"start*/wandb/offline-run-*-{name}/run-{name}.wandb"))
    assert len(logs) == 2
    for log in logs:
        content = log.read_bytes()
        assert content.count(b"speed/clips_per_second") >= 2
        assert b"videos" in content
        assert b"seed" in content
        assert len(list(log.parent.glob("files/media/images/reconstruction/*.png"))) == 1
    steps = [json.loads(s)["step"] for s in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3, 4]


def test_missing_package_is_one_sentence_before_anything_is_written(small, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    shards = noise_shards.write(str(tmp_path / "shards"))
    config = dataclasses.replace(change(small, data={"dir": shards}), wandb="videos")
    wanted = r"wandb is 'videos', and its package is not installed: pip install wandb, or leave out"
    with pytest.raises(UserError, match=wanted):
        training.train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("content", ["{", "[]", "{}"])
def test_unusable_identifier_is_one_sentence(offline, tmp_path, content):
    (tmp_path / "wandb.json").write_text(content)
    with pytest.raises(UserError, match=r"wandb\.json can't be used: remove it"):
        run_sinks.opened(tmp_path, 0, {}, project="videos")


def test_missing_login_is_one_sentence(offline, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    for name in ("HOME", "NETRC", "WANDB_CONFIG_DIR"):  # where a login is kept
        monkeypatch.setenv(name, str(tmp_path / "home"))
    with pytest.raises(UserError, match=r"can't be used \(.*\): run wandb login, set WANDB_MODE="):
        run_sinks.opened(tmp_path, 0, {}, project="videos")
