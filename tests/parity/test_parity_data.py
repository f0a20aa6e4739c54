"""`xkd_jax.parity` on small golden files that Pillow and NumPy compute."""

import json
import pathlib

import golden_miniatures
import numpy as np
import pytest

from xkd_jax.parity.__main__ import main

SHARED = pathlib.Path(__file__).parents[3] / "shared" / "golden_data"
KINDS = pytest.mark.parametrize("kind", golden_miniatures.FILES)


def run(capsys, folder, arrays) -> tuple[int, str, str]:
    """Returns (exit status, stdout, stderr) of the command on a file of `arrays`."""
    if any(isinstance(value, np.ndarray) for value in arrays.values()):
        path = folder / "case.npz"
        np.savez(path, **arrays)
    else:
        path = folder / "case.json"
        path.write_text(json.dumps(arrays))
    status = main([str(path)])
    return status, *capsys.readouterr()


@pytest.mark.parametrize("seed", [0, 1])
@KINDS
def test_pillow_and_numpy_results_pass(tmp_path, capsys, kind, seed):
    status, output, _ = run(capsys, tmp_path, golden_miniatures.FILES[kind](seed))
    assert "FAIL" not in output
    assert status == 0
    assert output.count("ok  ") >= 1


@pytest.mark.parametrize("decay,weight_decay,depth", [(0.45, 0.05, 12), (0.75, 0.3, 3)])
def test_layer_decay_of_any_depth_and_factor(tmp_path, capsys, decay, weight_decay, depth):
    table = golden_miniatures.layer_decay(depth, decay, weight_decay)
    status, output, _ = run(capsys, tmp_path, table)
    assert status == 0
    assert f"{depth} blocks, layer decay {decay:g}, weight decay {weight_decay:g}" in output
    table["blocks.1.norm1.bias"][0] *= 1.001
    assert run(capsys, tmp_path, table)[0] == 1
    table["blocks.1.norm1.bias"] = [decay ** (depth - 1), weight_decay]
    status, output, _ = run(capsys, tmp_path, table)
    assert status == 1
    assert "FAIL weight decay" in output
    assert "at blocks.1.norm1.bias" in output


def longer_box(rows: np.ndarray) -> np.ndarray:
    """Returns the rows with the first box inside the frame one pixel higher."""
    inside = (rows[:, 1] > 0) & (rows[:, 1] < rows[:, 2]) & (rows[:, 2] < rows[:, 2].max())
    rows = rows.copy()
    rows[np.flatnonzero(inside)[0], 2] += 1
    return rows


@pytest.mark.parametrize(
    "kind,name,change,group",
    [
        ("video_augment", "case0/resized", lambda a: np.roll(a, 2, 2), "resized, mean"),
        ("video_augment", "case0/flip", np.logical_not, "jittered, mean"),
        ("video_augment", "case2/order", lambda a: a[::-1], "jittered, max"),
        ("video_augment", "case1/blur_sigma_xy", lambda a: a[::-1], "blurred, mean"),
        ("video_augment", "case2/blur_sigma_xy", lambda a: a / 2, "blurred, max"),
        ("video_augment", "case2/grey", lambda a: a - np.uint8(2) * (a > 2), "grey, mean"),
        ("spectrogram_crop", "crops", lambda a: np.roll(a, 1, 2), "crops"),
        ("spec_augment", "warped", lambda a: a + 1e-3, "warped"),
        ("spec_augment", "masked", lambda a: a + 1e-4, "masked"),
        ("rand_augment", "Rotate/plus", lambda a: a[:, :, ::-1], "Rotate"),
        ("rand_augment", "Equalize/plus", lambda a: a // 2, "Equalize"),
        ("mixup_targets", "smoothing", lambda a: a / 2, "targets"),
        ("mixup_targets", "labels", lambda a: a[:, ::-1], "targets"),
        ("cutmix_boxes", "rows", lambda a: np.r_[a[:-1], a[-1:] * [1, 1, 1, 1, 1, 0.99]], "share"),
        ("cutmix_boxes", "rows", lambda a: longer_box(a), "boxes"),
        ("schedules", "mas_audio_temperature", lambda a: a + 1e-6 * (a < 0.05), "mas_audio"),
        ("schedules", "learning_rate", lambda a: a + 1e-9, "learning_rate"),
        ("schedules", "ema", lambda a: a - 1e-6, "ema"),
        ("schedules", "mas_video_temperature", lambda a: a[::-1], "mas_video_temperature"),
        ("schedules", "steps", lambda a: a + 7, "length"),
        ("sounds", "noise/log_mel", lambda a: a + 0.01, "log_mel"),
    ],
)
def test_changed_numbers_fail(tmp_path, capsys, kind, name, change, group):
    arrays = golden_miniatures.FILES[kind](0)
    arrays[name] = change(arrays[name])
    status, output, _ = run(capsys, tmp_path, arrays)
    assert status == 1
    assert f"  FAIL {group}" in output


OPTIONAL = ("_temperature", "/plus", "/minus")


@KINDS
def test_damaged_file_is_refused_in_one_sentence(tmp_path, capsys, kind):
    whole = golden_miniatures.FILES[kind](0)
    damaged = []
    for name, value in whole.items():
        if not name.endswith(OPTIONAL):
            damaged.append({key: held for key, held in whole.items() if key != name})
        for other in (value.astype(str), value.astype(complex), value[None], value[..., None][:0]):
            damaged.append(whole | {name: other})
        if value.dtype.kind == "f":
            damaged.append(whole | {name: np.full_like(value, np.nan)})
        elif value.dtype.kind in "iu":
            damaged.append(whole | {name: np.full(value.shape, -(2**40))})
    damaged.append(whole | {"x1b/\x1b[31m": np.zeros(1)})
    for arrays in damaged:
        status, _, error = run(capsys, tmp_path, arrays)
        assert status == 2
        assert error.count("\n") == 1
        assert "\x1b" not in error
        assert str(tmp_path) in error


@pytest.mark.parametrize(
    "change",
    [
        {"blocks.0.norm1.bias": None},
        {"blocks.0.norm1.bias": [1.0]},
        {"blocks.0.norm1.bias": [True, 0.0]},
        {"blocks.0.norm1.bias": [0.0, 0.0]},
        {"blocks.0.norm1.bias": [0.5, float("inf")]},
        {"blocks.0.norm1.bias": ["0.5", 0.0]},
        {"blocks.900.norm1.bias": [0.5, 0.0]},
        {"blocks.7.norm1.bias": [0.5, 0.0]},
        {"head.other.bias": [1.0, 0.0]},
    ],
)
def test_damaged_layer_table_is_refused_in_one_sentence(tmp_path, capsys, change):
    table = golden_miniatures.layer_decay(2, 0.5, 0.1) | change
    status, _, error = run(capsys, tmp_path, table)
    assert status == 2
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    "content",
    [b"", b"PK", b"PK\x03\x04" + bytes(60), b"{", b"[1, 2]", b'"text"', b"[" * 100_000, b"\xff\xfe",
     b'{"a": 1}'],
)  # fmt: skip
def test_unknown_file_is_refused_in_one_sentence(tmp_path, capsys, content):
    path = tmp_path / "case"
    path.write_bytes(content)
    assert main([str(path)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "is not a golden case" in error


def test_truncated_or_flipped_file_is_refused_or_fails(tmp_path, capsys):
    path = tmp_path / "case.npz"
    np.savez_compressed(path, **golden_miniatures.mixup_targets(0))
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(40):
        data = bytearray(whole)
        data[rng.integers(len(data))] ^= 1 << rng.integers(8)
        path.write_bytes(data[: rng.integers(1, len(data))] if rng.random() < 0.3 else data)
        status = main([str(path)])
        assert capsys.readouterr().err.count("\n") == (1 if status == 2 else 0)


def test_pickled_arrays_are_refused(tmp_path, capsys):
    arrays = {"rows": np.array([object], dtype=object)}
    np.savez(tmp_path / "case.npz", allow_pickle=True, **arrays)
    assert main([str(tmp_path / "case.npz")]) == 2
    assert "is not a golden case" in capsys.readouterr().err


@pytest.mark.skipif(not SHARED.exists(), reason="no golden cases beside the project")
@pytest.mark.parametrize("path", sorted(SHARED.glob("*.[nj]*")), ids=lambda path: path.stem)
def test_authors_numbers_pass(path, capsys):
    assert main([str(path)]) == 0
