"""The cache of compiled programs in the user's cache folder."""

import os
import stat
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from jax.experimental.compilation_cache import compilation_cache as jax_cache

from xkd_jax import compilation_cache

SETTINGS = (
    "jax_compilation_cache_dir",
    "jax_compilation_cache_max_size",
    "jax_persistent_cache_min_compile_time_secs",
    "jax_enable_compilation_cache",
)


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A folder for caches; JAX has no cache, and would keep programs of any duration."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    before = {name: getattr(jax.config, name) for name in SETTINGS}
    jax_cache.reset_cache()
    jax.config.update("jax_compilation_cache_dir", None)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    yield tmp_path
    for name, value in before.items():
        jax.config.update(name, value)
    jax_cache.reset_cache()


@pytest.fixture
def notes():
    return []


def compile_program():
    jax.jit(lambda x: jnp.sin(x) + 1234.5).lower(1.0).compile()


def programs() -> list[Path]:
    return sorted(Path(compilation_cache.folder()).glob("*-cache"))


def test_programs_are_kept_in_a_folder_of_the_user_alone(home, notes):
    compilation_cache.enable(notes.append)
    assert Path(compilation_cache.folder()) == home / "xkd_jax" / "programs"
    assert stat.S_IMODE(os.stat(compilation_cache.folder()).st_mode) == 0o700
    assert jax.config.jax_compilation_cache_max_size == compilation_cache.MAX_SIZE
    compile_program()
    assert len(programs()) == 1
    assert notes == []


def test_least_recently_used_programs_are_deleted(home, notes):
    compilation_cache.enable(notes.append)
    compile_program()
    jax.config.update("jax_compilation_cache_max_size", programs()[0].stat().st_size + 100)
    jax_cache.reset_cache()
    jax.jit(lambda x: jnp.cos(x) + 1234.5).lower(1.0).compile()
    assert len(programs()) == 1


def test_program_of_an_interrupted_write_is_compiled_again(home, notes, recwarn):
    compilation_cache.enable(notes.append)
    compile_program()
    (kept,) = programs()
    whole = kept.read_bytes()
    kept.write_bytes(whole[:100])
    kept.with_name(kept.name.replace("-cache", "-atime")).unlink()
    os.utime(kept, (0, 0))
    jax_cache.reset_cache()
    jax.config.update("jax_compilation_cache_dir", None)
    compilation_cache.enable(notes.append)
    compile_program()
    assert len(kept.read_bytes()) > 100
    assert not [w for w in recwarn if "compilation cache" in str(w.message)]


def test_program_that_is_being_written_is_left_alone(home, notes):
    path = Path(compilation_cache.folder())
    path.mkdir(parents=True, mode=0o700)
    (path / "jit_step-12-cache").write_bytes(b"begin")
    compilation_cache.enable(notes.append)
    assert len(programs()) == 1


@pytest.mark.parametrize("fault", ["open", "link", "file", "open parent"])
def test_folder_that_others_may_write_to_is_not_used(home, notes, fault):
    path = Path(compilation_cache.folder())
    path.parent.mkdir()
    if fault == "link":
        (home / "elsewhere").mkdir(mode=0o700)
        path.symlink_to(home / "elsewhere")
    elif fault == "file":
        path.touch(mode=0o600)
    else:
        path.mkdir(mode=0o700)
        (path if fault == "open" else path.parent).chmod(0o777)
    compilation_cache.enable(notes.append)
    (note,) = notes
    assert note.startswith(f"note      compiled programs are not kept in {path}: ")
    assert jax.config.jax_compilation_cache_dir is None


@pytest.mark.parametrize("setting", ["folder", "off"])
def test_settings_of_jax_take_precedence(home, notes, setting):
    if setting == "folder":
        jax.config.update("jax_compilation_cache_dir", str(home / "mine"))
    else:
        jax.config.update("jax_enable_compilation_cache", False)
    before = jax.config.jax_compilation_cache_dir
    compilation_cache.enable(notes.append)
    assert jax.config.jax_compilation_cache_dir == before
    assert notes == []
    assert not Path(compilation_cache.folder()).exists()


def test_relative_cache_home_is_ignored(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "here")
    monkeypatch.setenv("HOME", "/home/someone")
    assert compilation_cache.folder() == "/home/someone/.cache/xkd_jax/programs"
