"""Output of a long phase, on a terminal and in a pipe."""

import fake_terminal
import pytest

from data_pipelines import terminal
from data_pipelines.activity import Activity


def test_pipe_gets_line_after_ten_quiet_seconds(clock, capsys):
    with Activity("compiling the step") as activity:
        for clock[0] in (1.0, 9.9, 10.0, 11.0, 15.0, 19.9, 20.5):
            activity.tick()
        terminal.print_text("another line")
        for clock[0] in (25.0, 30.4, 30.5):
            activity.tick()
    assert capsys.readouterr().out.splitlines() == [
        "compiling the step ... 10 s",
        "compiling the step ... 20 s",
        "another line",
        "compiling the step ... 30 s",
    ]


def test_innermost_of_nested_activities_prints(clock, capsys):
    with Activity("step", total=1200, done=30) as outer:
        with Activity("probing") as inner:
            clock[0] = 12.0
            outer.tick()
            inner.tick()
        clock[0] = 24.0
        outer.tick()
        outer.reached(31)
        clock[0] = 36.0
        outer.tick()
    assert capsys.readouterr().out.splitlines() == [
        "probing ... 12 s",
        "step   30/1200 ... 24 s",
        "step   31/1200 ... 12 s",
    ]


def test_counted_parts_are_shown_when_due(clock, capsys):
    with Activity("step", total=1200) as activity:
        clock[0] = 9.0
        assert not activity.is_due()
        clock[0] = 10.0
        assert activity.is_due()
        activity.show(37, "loss 1.5")
        assert not activity.is_due()
    assert capsys.readouterr().out.splitlines() == ["step   37/1200  loss 1.5  left 5 min"]


def test_terminal_shows_one_line_that_is_removed(clock, monkeypatch):
    out = fake_terminal.use(monkeypatch)
    with Activity("compiling the step") as activity:
        activity.tick()
        terminal.print_text("a warning")
        clock[0] = 50.0
        activity.tick()
    assert out.screen() == ["a warning"]
    assert {text.partition(" ...")[0] for text in out.in_place()} == {
        "compiling the step", "a warning",
    }  # fmt: skip


def test_terminal_shows_counted_parts_as_bar(clock, monkeypatch):
    out = fake_terminal.use(monkeypatch)
    with Activity("step", total=1200) as activity:
        assert not activity.is_due()
        clock[0] = 1.0
        assert activity.is_due()
        activity.show(600, "loss 1.5")
        assert not activity.is_due()
    last = out.in_place()[-1]
    assert last.startswith("step 600/1200 |██████████          | ")
    assert last.endswith(", loss 1.5")
    assert max(map(len, out.in_place())) <= 100
    assert out.screen() == []


def test_disabled_activity_prints_nothing(clock, capsys):
    with Activity("step", total=10, enabled=False) as activity:
        clock[0] = 60.0
        assert not activity.is_due()
        activity.show(3, "loss 1.5")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("kind,interactive", [("xterm", True), ("dumb", False)])
def test_dumb_terminal_gets_lines(monkeypatch, kind, interactive):
    fake_terminal.use(monkeypatch)
    monkeypatch.setenv("TERM", kind)
    assert terminal.is_interactive() is interactive
