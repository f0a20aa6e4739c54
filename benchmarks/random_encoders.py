"""Evaluates random encoders of every kind on the spoken digits, as a test of the program.

    python -m benchmarks.random_encoders [--output=runs/random_encoders] [--recordings=DIR]

Nothing here is trained, so the table is no result about XKD, VideoMAE, AudioMAE, CAV-MAE or AST: it
shows that files in their formats are read, that each encoder gets its own input from the same
shards, and that digits are recognized from this input better than by chance (10 %) with random
weights. The files are written under the names of their projects, with small widths and inputs of
one second. Values are top-1 accuracies in percent of 20 nearest neighbors by cosine, of one clip
each: 500 training and 250 test clips of the spoken digits, and with --recordings those of the Free
Spoken Digit Dataset, each speaker held out in turn. docs/evaluation.md has the command for trained
weights.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import ml_collections
import numpy as np

from benchmarks import markdown_table
from configs import demo
from configs.eval import knn
from data_pipelines import spoken_digits, terminal
from data_pipelines.build import __main__ as build
from data_pipelines.command_parser import command_parser
from data_pipelines.errors import UserError
from data_pipelines.loader_config import Modality
from xkd_jax.config import evaluation as eval_config
from xkd_jax.config import pretraining as config_lib
from xkd_jax.evaluate import evaluation
from xkd_jax.inference.weight_files import torch_file

WIDTH, DEPTH, HEADS, HIDDEN = 96, 2, 4, 384
FRAMES, SIZE, MELS, COLUMNS = 8, 32, 128, 96
# Bands and columns of XKD's spectrogram, at 16 kHz with a column each 143 samples.
XKD_MELS, XKD_COLUMNS = 80, 112
_SPEAKERS = (1, 2, 3, 4, 5, 6)
# Data set and modality of each column of the table.
_COLUMNS: tuple[tuple[str, Modality], ...] = (
    ("digits", "video"), ("digits", "audio"), ("recordings", "audio"),
)  # fmt: skip
Shapes = Iterator[tuple[str, tuple[int, ...]]]


@dataclasses.dataclass(frozen=True)
class Kind:
    """One kind of weights.

    Attributes:
      name: of the row.
      modalities: of its encoders.
      tensors: (name, shape) of each tensor, as the project's files have them.
      settings: config.json beside the file, as transformers writes it; {}: none.
      keys: keys of an evaluation with values that the file lacks.
    """

    name: str
    modalities: tuple[Modality, ...]
    tensors: tuple[tuple[str, tuple[int, ...]], ...]
    settings: dict[str, object] = dataclasses.field(default_factory=dict)
    keys: dict[str, object] = dataclasses.field(default_factory=dict)


def _pair(name: str, *shape: int) -> Shapes:
    yield f"{name}.weight", shape
    yield f"{name}.bias", shape[:1]


def _block(name: str, biases: tuple[str, ...] = ("qkv.bias",)) -> Shapes:
    """The tensors of a block under timm's names; `biases` are those of its attention."""
    yield from _pair(f"{name}.norm1", WIDTH)
    yield f"{name}.attn.qkv.weight", (3 * WIDTH, WIDTH)
    for bias in biases:
        yield f"{name}.attn.{bias}", (3 * WIDTH if bias == "qkv.bias" else WIDTH,)
    yield from _pair(f"{name}.attn.proj", WIDTH, WIDTH)
    yield from _pair(f"{name}.norm2", WIDTH)
    yield from _pair(f"{name}.mlp.fc1", HIDDEN, WIDTH)
    yield from _pair(f"{name}.mlp.fc2", WIDTH, HIDDEN)


def _xkd(embedding: str, values: int, tokens: int) -> Shapes:
    yield "cls_token", (1, 1, WIDTH)
    yield "enc_pos_embed", (1, 1 + tokens, WIDTH)
    yield from _pair(f"{embedding}.proj", WIDTH, values)
    for i in range(DEPTH):
        yield from _block(f"encoder.blocks.{i}", biases=())
    yield from _pair("encoder_norm", WIDTH)


def _videomae() -> Shapes:
    yield from _pair("patch_embed.proj", WIDTH, 3, 2, 8, 8)
    for i in range(DEPTH):
        yield from _block(f"blocks.{i}", ("q_bias", "v_bias"))
    yield from _pair("fc_norm", WIDTH)


def _audiomae() -> Shapes:
    yield "cls_token", (1, 1, WIDTH)
    yield "pos_embed", (1, 1 + MELS * COLUMNS // 16**2, WIDTH)
    yield from _pair("patch_embed.proj", WIDTH, 1, 16, 16)
    for i in range(DEPTH):
        yield from _block(f"blocks.{i}")
    yield from _pair("norm", WIDTH)


def _cavmae() -> Shapes:
    for letter, colors, side, tokens in (
        ("a", 1, 16, MELS * COLUMNS // 16**2),
        ("v", 3, 8, (SIZE // 8) ** 2),
    ):
        yield f"modality_{letter}", (1, 1, WIDTH)
        yield f"pos_embed_{letter}", (1, tokens, WIDTH)
        yield from _pair(f"patch_embed_{letter}.proj", WIDTH, colors, side, side)
        yield from _block(f"blocks_{letter}.0")
        yield from _pair(f"norm_{letter}", WIDTH)
        for norm in ("norm1", "norm2"):
            yield from _pair(f"blocks_u.0.{norm}_{letter}", WIDTH)
    yield from (item for item in _block("blocks_u.0") if "norm" not in item[0])


def _ast() -> Shapes:
    yield "embeddings.cls_token", (1, 1, WIDTH)
    yield "embeddings.distillation_token", (1, 1, WIDTH)
    tokens = ((MELS - 16) // 10 + 1) * ((COLUMNS - 16) // 10 + 1)
    yield "embeddings.position_embeddings", (1, 2 + tokens, WIDTH)
    yield from _pair("embeddings.patch_embeddings.projection", WIDTH, 1, 16, 16)
    for i in range(DEPTH):
        layer = f"encoder.layer.{i}"
        for part in ("query", "key", "value"):
            yield from _pair(f"{layer}.attention.attention.{part}", WIDTH, WIDTH)
        yield from _pair(f"{layer}.attention.output.dense", WIDTH, WIDTH)
        yield from _pair(f"{layer}.layernorm_before", WIDTH)
        yield from _pair(f"{layer}.layernorm_after", WIDTH)
        yield from _pair(f"{layer}.intermediate.dense", HIDDEN, WIDTH)
        yield from _pair(f"{layer}.output.dense", WIDTH, HIDDEN)
    yield from _pair("layernorm", WIDTH)


_HEADS: dict[str, object] = {"heads": HEADS}
_CLIP: dict[str, object] = {"video.frames": FRAMES, "video.size": SIZE}
KINDS = (
    Kind("XKD, video", ("video",), tuple(_xkd("cuboid_embed", 4 * 8 * 8 * 3, 32)),
         keys=_HEADS | _CLIP | {"video.patch": (4, 8, 8)}),
    Kind("XKD, audio", ("audio",), tuple(_xkd("patch_embed", 4 * 16, 20 * 7)),
         keys=_HEADS | {"audio.mels": XKD_MELS, "audio.columns": XKD_COLUMNS,
                        "audio.patch": (4, 16)}),
    Kind("VideoMAE", ("video",), tuple(_videomae()), keys=_HEADS | _CLIP),
    Kind("AudioMAE", ("audio",), tuple(_audiomae()), keys=_HEADS),
    Kind("CAV-MAE", ("video", "audio"), tuple(_cavmae()), keys=_HEADS),
    Kind("AST", ("audio",), tuple(_ast()), settings={
        "num_attention_heads": HEADS, "num_mel_bins": MELS, "max_length": COLUMNS,
        "frequency_stride": 10, "time_stride": 10,
    }),
)  # fmt: skip


def write(kind: Kind, folder: Path) -> Path:
    """Writes random weights of a kind and returns their path.

    Weights are normal with the variance of 1 / inputs, tokens and positions with a deviation of
    0.02; biases are 0, norms the identity.

    Args:
      kind: of the weights.
      folder: a folder for them alone.
    """
    rng = np.random.default_rng(0)

    def drawn(name: str, shape: tuple[int, ...]) -> np.ndarray:
        if name.endswith("bias"):
            return np.zeros(shape, np.float32)
        if len(shape) == 1:
            return np.ones(shape, np.float32)
        table = any(part in name for part in ("token", "pos", "modality"))
        deviation = 0.02 if table else np.prod(shape[1:]) ** -0.5
        return rng.normal(0, deviation, shape).astype(np.float32)

    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "weights.pth"
    with path.open("wb") as file:
        torch_file.write(file, {name: drawn(name, shape) for name, shape in kind.tensors})
    if kind.settings:
        (folder / "config.json").write_text(json.dumps(kind.settings))
    return path


def digits(output: Path) -> str:
    """Makes the clips, with waveforms, and returns their folder."""
    raw = demo.get_config()
    raw.data.update(train_clips=500, test_clips=250, records=500, waveforms=True)
    raw.audio.update(hop=143, mels=XKD_MELS, columns=XKD_COLUMNS, patch=(4, 16), local_columns=16)
    directory = str(output / "digits")
    spoken_digits.build(config_lib.resolve(raw), directory, terminal.print_text)
    return directory


def recordings(source: str, output: Path) -> str:
    """Builds the shards of recordings, with waveforms, and returns their folder."""
    directory = output / "recordings"
    if not (directory / "dataset_info.json").exists():
        status = build.main(
            [
                "--dataset=spoken_recordings", f"--source={source}", f"--output={directory}",
                "--waveform",
            ]
        )  # fmt: skip
        if status:
            raise UserError(f"{source} was not built: see the message above.")
    return str(directory)


def accuracy(kind: Kind, path: Path, modality: Modality, shards: str, workdir: Path) -> float:
    """Returns the accuracy of one encoder on one data set, in percent."""
    raw: ml_collections.ConfigDict = knn.get_config(modality)
    raw.update_from_flattened_dict(
        {"checkpoint": str(path), "data.dir": shards, "batch_size": 100, **kind.keys}
    )
    if Path(shards).name == "recordings":
        raw.data.update(train_split="all", folds=_SPEAKERS)
    raw.features = str(workdir.parent / "features")
    return float(evaluation.evaluate(eval_config.resolve(raw), workdir)["value"])


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command."""
    parser = command_parser("benchmarks.random_encoders", __doc__)
    parser.add_argument("--output", type=Path, default=Path("runs/random_encoders"))
    parser.add_argument(
        "--recordings", default="", help="folder of the Free Spoken Digit Dataset's recordings"
    )
    args = parser.parse_args(argv)
    rows: list[list[str]] = []
    try:
        sets = {"digits": digits(args.output)}
        if args.recordings:
            sets["recordings"] = recordings(args.recordings, args.output)
        for kind in KINDS:
            name = kind.name.lower().replace(", ", "_")
            path = write(kind, args.output / "weights" / name)
            cells = [""] * len(_COLUMNS)
            for column, (held, modality) in enumerate(_COLUMNS):
                if held in sets and modality in kind.modalities:
                    workdir = args.output / f"{name}_{held}_{modality}"
                    value = accuracy(kind, path, modality, sets[held], workdir)
                    cells[column] = f"{value:.1f}"
            rows.append([kind.name, *cells])
    except UserError as error:
        terminal.print_error(f"error: {error}")
        sys.exit(error.status)
    head = ("random weights", "digits, video", "digits, audio", "recordings")
    terminal.print_text(markdown_table.text(head, rows))


if __name__ == "__main__":
    main()
