"""Finding the config file that --config names: in the working directory, or of this package."""

from __future__ import annotations

import difflib
from pathlib import Path

from data_pipelines.errors import UserError

# In a checkout, and installed beside this package. Config files are read by path, never imported.
FOLDER = Path(__file__).parents[2] / "configs"


def find(name: str) -> Path | None:
    """Returns the path of a config file, or None if there is none.

    Args:
      name: a path, with or without `configs/` and `.py`: configs/k400.py, k400, eval/knn. A file of
        the working directory comes before one of this package.
    """
    path = Path(name)
    inner = _inside(path)
    places = (path, "configs" / inner, FOLDER / inner)
    return next((file for file in places if file.is_file()), None)


def is_of_package(path: Path) -> bool:
    """Whether a file is one of this package outside the working directory."""
    return path.is_relative_to(FOLDER) and not path.is_relative_to(Path.cwd())


def missing(name: str) -> UserError:
    """Returns the error for a config file that does not exist, with the files of its folder."""
    path = Path(name)
    inner = _inside(path)
    shown = [(path.parent, path.parent), (FOLDER / inner.parent, "configs" / inner.parent)]
    for folder, place in (*shown, (FOLDER, Path("configs"))):
        files = sorted(folder.glob("*.py")) if folder.is_dir() else []
        names = [file.name for file in files if "def get_config(" in file.read_text("utf-8")]
        if names:
            near = difflib.get_close_matches(inner.name, names, n=1)
            question = f" Did you mean {place / near[0]}?" if near else ""
            has = f"the folder {place} has {', '.join(names)}."
            return UserError(f"The config file {path} does not exist: {has}{question}")
    return UserError(f"The config file {path} does not exist: give one, such as configs/demo.py.")


def _inside(path: Path) -> Path:
    """Returns a path relative to the folder of config files, with suffix."""
    inner = path.relative_to("configs") if path.is_relative_to("configs") else path
    return inner if inner.suffix == ".py" or not inner.name else inner.with_name(f"{inner.name}.py")
