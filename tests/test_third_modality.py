"""Code that names a modality is only in the files of docs/architecture.md."""

import pathlib
import re

ROOT = pathlib.Path(__file__).parents[1]
PAGE = ROOT / "docs" / "architecture.md"
_NAMES = re.compile(r"""["'](video|audio)["']|\b((Video|Audio)Config|Stated(Video|Audio))\b""")
# A modality's own data code: decoding, cutting, augmentation.
OWN = (
    "data_pipelines/build/", "data_pipelines/read/clips.py", "data_pipelines/read/views.py",
    "data_pipelines/read/video_views.py", "data_pipelines/read/audio_views.py",
    "xkd_jax/augment/video.py", "xkd_jax/augment/audio.py", "xkd_jax/evaluate/training_clips.py",
)  # fmt: skip
# Weights and numbers of other projects, the commands that use them, and code that concerns one
# modality by nature: players and tags of a page, the paper's benchmarks and ablations, the size of
# test crops, names for users of the package.
OF_ONE = (
    "xkd_jax/inference/", "xkd_jax/embed.py", "xkd_jax/search.py", "xkd_jax/parity/",
    "xkd_jax/config/__init__.py", "xkd_jax/config/ablations.py", "xkd_jax/config/benchmarks.py",
    "xkd_jax/config/stated_input.py", "xkd_jax/config/initial_weights.py",
    "xkd_jax/evaluate/pretrained.py", "xkd_jax/report/clip_media.py",
    "xkd_jax/report/clip_sections.py", "xkd_jax/report/sound_synthesis.py",
)  # fmt: skip


def listed() -> set[str]:
    """The files of the page's table."""
    section = PAGE.read_text().split("### A third modality")[1].partition("\n## ")[0]
    return set(re.findall(r"^\| `([\w/]+\.py)` \|", section, re.M))


def naming() -> set[str]:
    """The files that name a modality in their code."""
    found = set()
    for folder in ("xkd_jax", "data_pipelines"):
        for path in (ROOT / folder).rglob("*.py"):
            if _NAMES.search(path.read_text()):
                found.add(path.relative_to(ROOT).as_posix())
    return found


def test_a_third_modality_touches_at_most_eight_files():
    assert 0 < len(listed()) <= 8
    assert all((ROOT / path).is_file() for path in listed())


def test_code_names_a_modality_only_in_the_files_of_the_page():
    elsewhere = {path for path in naming() if not path.startswith((*OWN, *OF_ONE))}
    assert elsewhere <= listed()
