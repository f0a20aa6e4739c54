"""Lock files: content, use and creation."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

from locks import make

ROOT = Path(__file__).parents[1]
LINE = re.compile(r"([a-z0-9-]+)==(\S+)(?: ; ([a-z_]+ [!=]= '\w+'(?: and [a-z_]+ [!=]= '\w+')*))?")
PYTHONS = ["3.11", "3.12", "3.13"]


def locked(python: str) -> dict[str, Version]:
    """Returns {package: version} of a lock file."""
    lines = (ROOT / "locks" / f"{python}.txt").read_text().splitlines()
    found = [LINE.fullmatch(line) for line in lines]
    return {match[1]: Version(match[2]) for match in found if match}


def test_each_supported_python_has_one_lock():
    assert make.pythons() == PYTHONS
    assert sorted(file.stem for file in (ROOT / "locks").glob("*.txt")) == PYTHONS
    supported = SpecifierSet(make.project()["requires-python"])
    assert all(python in supported for python in PYTHONS)
    assert "3.10" not in supported
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
    assert settings["ruff"]["target-version"] == "py311"
    assert settings["mypy"]["python_version"] == "3.11"


@pytest.mark.parametrize("python", PYTHONS)
def test_lock_has_one_sorted_line_per_package(python):
    lines = (ROOT / "locks" / f"{python}.txt").read_text().splitlines()
    assert [line for line in lines if not LINE.fullmatch(line)] == []
    names = [line.partition("==")[0] for line in lines]
    assert names == sorted(set(names))
    assert names == [canonicalize_name(name) for name in names]


@pytest.mark.parametrize("python", PYTHONS)
def test_lock_has_every_direct_requirement_within_bounds(python):
    versions = locked(python)
    direct = [Requirement(text) for text in make.requirements()]
    assert {"jax", "numpy", "pytest", "ruff", "mypy", "gcsfs", "moto"} <= {r.name for r in direct}
    for requirement in direct:
        version = versions[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version, prereleases=True), requirement
    assert "torch" not in versions


def test_direct_requirements_have_lower_bounds():
    for text in (ROOT / "requirements.txt").read_text().splitlines():
        if needed := text.partition("#")[0].strip():
            assert [one.operator for one in Requirement(needed).specifier] == [">="], needed


def test_jax_and_tpu_compiler_are_compatible():
    for python in PYTHONS:
        versions = locked(python)
        assert versions["jax"] == versions["jaxlib"]
        assert "libtpu" in versions


def commands(file: str, word: str) -> list[str]:
    return [line for line in (ROOT / file).read_text().splitlines() if word in line]


def test_readme_and_ci_install_lock_of_running_python(tmp_path):
    """The part of each command with the lock, executed by a shell."""
    found = [
        *commands("README.md", "python3 -m venv"),
        *commands(".ci/run", "pip install"),
    ]
    assert len(found) == 3
    (tmp_path / "python3").symlink_to(sys.executable)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    for command in found:
        constraint = re.search(r"-c (\"?locks/.*?\.txt\"?)( |$)", command)
        assert constraint, command
        printed = subprocess.run(
            ["bash", "-c", f"echo {constraint[1]}"],
            env=environment, capture_output=True, text=True, check=True,
        )  # fmt: skip
        expected = f"locks/{sys.version_info.major}.{sys.version_info.minor}.txt"
        assert printed.stdout.strip() == expected


def test_tpu_vm_installs_lock_of_its_python():
    text = (ROOT / "launch_tpu.sh").read_text()
    python = re.search(r"uv venv .*--python (\S+)", text)[1]
    assert f"-c locks/{python}.txt" in text
    assert python in PYTHONS


UV = """
import pathlib, sys
project = pathlib.Path("pyproject.toml").read_text()
assert 'requires-python = "==3.12.*"' in project and "python_version == '3.12'" in project
assert "--universal" in sys.argv and "--no-emit-index-url" in sys.argv
assert "jax>=" in project and "apache-beam" not in project
print("jax==1 ; python_full_version < '3.13'")
print("win==2 ; python_full_version < '3.13' and sys_platform == 'win32'")
"""


def test_lock_is_made_for_one_python(tmp_path, monkeypatch):
    """uv is replaced by a script."""
    (tmp_path / "uv.py").write_text(UV)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert make.lock("3.12") == "jax==1\nwin==2 ; sys_platform == 'win32'\n"


@pytest.mark.parametrize("python", ["3.10", "3.9", "three"])
def test_unsupported_python_is_refused(python, capsys):
    with pytest.raises(SystemExit) as ended:
        make.main([python])
    assert ended.value.code == 2
    assert f"Python {python!r} is not supported: give 3.11, 3.12, 3.13." in capsys.readouterr().err
