import importlib.metadata
import re
from pathlib import Path

import data_pipelines
import xkd_jax
from xkd_jax.training.checkpoints import versions


def test_versions_of_python_libraries_and_program_are_recorded():
    found = versions.versions()
    assert {"python", "xkd_jax", "code", "jax", "jaxlib", "flax", "optax"} <= found.keys()
    assert {"orbax-checkpoint", "numpy", "grain"} <= found.keys()
    assert found["jax"] == importlib.metadata.version("jax")
    assert re.fullmatch("[0-9a-f]{16}", found["code"])
    assert all(isinstance(value, str) for value in found.values())


def test_library_that_is_not_installed_is_omitted():
    found = versions.installed(["no-such-distribution", "numpy"])
    assert found == {"numpy": importlib.metadata.version("numpy")}


def test_changed_source_changes_code_digest(tmp_path):
    (tmp_path / "below").mkdir()
    init, below = tmp_path / "__init__.py", tmp_path / "below" / "a.py"
    init.write_text("")
    below.write_text("x = 1\n")
    before = versions.source_digest([tmp_path])
    assert versions.source_digest([tmp_path]) == before
    below.write_text("x = 2\n")
    changed = versions.source_digest([tmp_path])
    assert changed != before
    below.rename(tmp_path / "below" / "b.py")
    assert versions.source_digest([tmp_path]) not in (before, changed)


def test_code_digest_covers_both_packages():
    folders = (Path(package.__file__).parent for package in (xkd_jax, data_pipelines))
    assert versions.versions()["code"] == versions.source_digest(folders)
