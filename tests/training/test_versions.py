import importlib.metadata
import re

from xkd_jax.training import versions


def test_python_libraries_and_this_program_are_named():
    found = versions.versions()
    assert {"python", "xkd_jax", "code", "jax", "jaxlib", "flax", "optax"} <= found.keys()
    assert {"orbax-checkpoint", "numpy", "grain"} <= found.keys()
    assert found["jax"] == importlib.metadata.version("jax")
    assert re.fullmatch("[0-9a-f]{16}", found["code"])
    assert all(isinstance(value, str) for value in found.values())


def test_a_library_that_is_not_installed_is_left_out(monkeypatch):
    monkeypatch.setattr(versions, "_DISTRIBUTIONS", ("no-such-distribution", "numpy"))
    found = versions._installed.__wrapped__()
    assert "no-such-distribution" not in found
    assert "numpy" in found


def test_any_change_of_the_source_is_another_code(tmp_path, monkeypatch):
    (tmp_path / "below").mkdir()
    init, below = tmp_path / "__init__.py", tmp_path / "below" / "a.py"
    init.write_text("")
    below.write_text("x = 1\n")
    monkeypatch.setattr(versions.xkd_jax, "__file__", str(init))
    before = versions._code()
    assert versions._code() == before
    below.write_text("x = 2\n")
    changed = versions._code()
    assert changed != before
    below.rename(tmp_path / "below" / "b.py")
    assert versions._code() not in (before, changed)
