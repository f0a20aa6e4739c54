"""Invalid values of flags and config keys are refused in one sentence with the valid ones."""

import sys

import pytest
from absl import flags

from data_pipelines.errors import UserError
from xkd_jax import command_line
from xkd_jax.config import dataclass_schema
from xkd_jax.config.pretraining import resolve

CONFIG = "--config=configs/k400.py"
BOOL = r"give a value of type bool \(true or false\)\."
INT = r"give a value of type int \(a whole number\)\."
FLOAT = r"give a value of type float \(a number\)\."


@pytest.fixture
def parse(monkeypatch):
    """Parses flags as `command_line.run` does, and resolves the config."""
    values = flags.FLAGS

    def forget():
        for name in [name for name in values if name.startswith("config.")]:
            delattr(values, name)
        values.unparse_flags()

    def parse(*arguments):
        forget()
        argv = ["main.py", CONFIG, *arguments]
        monkeypatch.setattr(sys, "argv", argv)
        assert command_line.parse_flags(argv) == ["main.py"]
        return resolve(values.config)

    yield parse
    forget()


@pytest.mark.parametrize(
    "argument,sentence",
    [
        ("--config.probe.enabled=yes", f"probe.enabled is 'yes': {BOOL}"),
        ("--config.data.verify_checksums=off", f"data.verify_checksums is 'off': {BOOL}"),
        ("--config.probe.enabled=", f"probe.enabled is '': {BOOL}"),
        ("--config.probe.enabled=2", f"probe.enabled is '2': {BOOL}"),
        ("--config.probe.enabled=None", f"probe.enabled is 'None': {BOOL}"),
        ("-config.probe.enabled=a: b", f"probe.enabled is 'a: b': {BOOL}"),
        ("--config.batch_size=2.5", f"batch_size is '2.5': {INT}"),
        ("--config.batch_size=", f"batch_size is '': {INT}"),
        ("--config.max_steps=None", f"max_steps is 'None': {INT}"),
        ("--config.batch_size", "batch_size has no value: give --config.batch_size=VALUE, a"),
        ("--noconfig.batch_size", "--noconfig.batch_size is for true or false: give --config.bat"),
        (f"--config.batch_size={10**30}", "batch_size is a number of 100 bits: give a smaller one"),
        ("--config.optimizer.b1=1,5", f"optimizer.b1 is '1,5': {FLOAT}"),
        (f"--config.optimizer.b1={'9' * 500}x", f"optimizer.b1 is '9{{96}}[.]{{3}}: {FLOAT}"),
        ("--config.model.variant=xdk", "model.variant is 'xdk': give one of 'xkd', 'mas', 'mats'"),
        ("--config.model.variant", "model.variant has no value: give .*, one of 'xkd', 'mas'"),
        ("--config.init.from", r"init\.from has no value: give --config\.init\.from=VALUE, a"),
        ("--config.init.frm=x", r"no key init\.frm\. Did you mean init\.from\?"),
        ("--config.video.patch=4,16", r"video.patch is \(4, 16\): give 3 values of type int, with"),
        ("--config.video.patch=(4,16", r"video.patch is '\(4,16': give 3 values of type int"),
        ("--config.video.patch=4,16,x", r"video.patch is .*: give 3 values of type int"),
        ("--config.video.patch=" + "(" * 5000, r"video.patch is \(?'\(+\.\.\.: give 3 values"),
        ("--config.video.patch=4,16,1.5", f"video.patch is 1.5: {INT}"),
        ("--config.video=3", "video is a section: give --config.video.KEY=VALUE"),
        ("--config.video={'frames': 'x'}", f"video.frames is 'x': {INT}"),
        ("--noconfig.prob.enabled", r"no key prob.enabled\. Did you mean probe.enabled\?"),
        ("--max_steps=5", r"There is no flag --max_steps\. Did you mean --config\.max_steps=5\?$"),
        ("--confg.batch_siz=8", r".* --confg\.batch_siz\. Did you mean --config\.batch_size=8\?$"),
        ("-learning_rate=1e-3", r".* Did you mean --config\.optimizer\.learning_rate=1e-3\?$"),
        ("--verbosty=1", r".* Did you mean --verbosity=1\?$"),
        ("--zzz", "There is no flag --zzz: see --help, and --show for the keys of"),
        ("--verbosity=loud", f"--verbosity is 'loud': {INT}"),
        ("--alsologtostderr=yes", f"--alsologtostderr is 'yes': {BOOL}"),
    ],
)  # fmt: skip
def test_value_of_wrong_type_is_one_sentence(parse, argument, sentence):
    with pytest.raises(UserError, match=f"^(?s:.){{0,16}}{sentence}") as caught:
        parse(argument)
    assert str(caught.value).count("\n") == 0
    assert len(str(caught.value)) < 250


@pytest.mark.parametrize(
    "argument,key,value",
    [
        ("--config.probe.enabled", "enabled", True),
        ("--config.probe.enabled=TRUE", "enabled", True),
        ("--config.probe.enabled=1", "enabled", True),
        ("--noconfig.probe.enabled", "enabled", False),
        ("--config.probe.enabled=f", "enabled", False),
        ("--config.probe.k=0x10", "k", 16),
    ],
)
def test_allowed_values_in_words(parse, argument, key, value):
    assert getattr(parse(argument).probe, key) is value


@pytest.mark.parametrize("fault", ["int('many')", "None + 1"])
def test_failing_config_file_is_named_with_line(tmp_path, monkeypatch, fault):
    file = tmp_path / "own.py"
    file.write_text(f"def get_config():\n    return {fault}\n")
    argv = ["main.py", f"--config={file}"]
    monkeypatch.setattr(sys, "argv", argv)
    with pytest.raises(UserError, match=r"config file fails at .*:\d+ \(.*Error: .*\): correct it"):
        command_line.parse_flags(argv)


def test_last_of_two_config_flags_is_used(parse):
    assert command_line.config_path(["main.py", "--config=a.py", "--config", "b.py"]) == "b.py"


def test_optional_values_in_words():
    assert dataclass_schema.allowed(int | None) == "a value of type int (a whole number) or None"
    assert (
        dataclass_schema.allowed(tuple[float, ...])
        == "values of type float, with commas between them"
    )
    assert dataclass_schema.kind_of(command_line.Config, "video.nope.x") is None


@pytest.mark.parametrize("flag", ["--config.init.from=w.pth", "-config.init.from=w.pth"])
def test_a_key_that_is_a_keyword_of_python_is_given_as_others(parse, flag):
    assert parse(flag, "--config.init.step=3").init.source == "w.pth"
    assert sys.argv[2] == flag
    assert parse("--config.init.from", "w.pth").init.source == "w.pth"
