"""What an installed package has: every file of its folders, and its commands."""

import importlib
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PACKAGES = ("xkd_jax", "data_pipelines", "configs")


def files(package: str, *, python: bool) -> list[Path]:
    found = (path for path in (ROOT / package).rglob("*") if path.is_file())
    kept = (path for path in found if "__pycache__" not in path.parts)
    return [path for path in kept if (path.suffix == ".py") == python]


def test_every_folder_of_modules_is_a_package():
    """Folders without `__init__.py` would not be installed."""
    for package in PACKAGES:
        for folder in {path.parent for path in files(package, python=True)}:
            assert (folder / "__init__.py").exists(), folder


def test_other_files_are_package_data():
    data = PROJECT["tool"]["setuptools"]["package-data"]
    for package in PACKAGES:
        installed = {f for pattern in data.get(package, ()) for f in (ROOT / package).glob(pattern)}
        assert [path for path in files(package, python=False) if path not in installed] == []
    assert (ROOT / "xkd_jax/py.typed").exists()


def test_script_is_a_function_of_the_package():
    module, _, name = PROJECT["project"]["scripts"]["xkd_jax"].partition(":")
    assert callable(getattr(importlib.import_module(module), name))
