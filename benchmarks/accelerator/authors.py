"""Times the training step of the authors' PyTorch code, with its data on the device.

    python -m benchmarks.accelerator.authors --code=FOLDER --clips=64 [--dtype=float32] [--rehearse]

FOLDER is `codes/train` of the authors' repository, which is not part of this one. The step is that
of their `train_one_epoch`: both forward passes and all losses under autocast, the check of the
loss, backward, clipping per tensor, AdamW with their parameter groups, and the moving average of
the teachers, without data, augmentation and logging. The views are random numbers; the teachers get
the local views, as in their code. Autocast uses bfloat16 without loss scaling (theirs: float16 with
scaling), and is off for float32; with `--compiled`, `torch.compile` fuses the model.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import time
import types
from typing import Any

import torch
import yaml

from benchmarks.accelerator import reporting
from data_pipelines.command_parser import command_parser

# Sizes of encoder and decoder for --rehearse.
_TINY = {"embed_dim": 48, "depth": 1, "num_heads": 3}


def main() -> None:
    """Measures each batch size."""
    parser = command_parser("benchmarks.accelerator.authors", __doc__)
    parser.add_argument("--code", required=True, help="codes/train of the authors' repository")
    parser.add_argument("--clips", default="64", help="batch sizes, as in 16,64")
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float32"))
    parser.add_argument("--compiled", action="store_true", help="with torch.compile")
    parser.add_argument("--rehearse", action="store_true", help="a tiny model, on any device")
    parser.add_argument("--wait", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    reporting.report("versions", torch=torch.__version__, cuda=torch.version.cuda)
    trainer = Trainer(
        args.code, device, dtype=args.dtype, compiled=args.compiled, tiny=args.rehearse
    )
    reporting.wait_for_start(args.wait)
    if device.type == "cuda" or args.rehearse:
        reporting.attempt("matmul", lambda: _matmul(device, 256 if args.rehearse else 8192))
    for clips in map(int, args.clips.split(",")):
        reporting.attempt("authors", lambda clips=clips: trainer.measure(clips, args.rehearse))  # type: ignore[misc]
        if device.type == "cuda":
            torch.cuda.empty_cache()


class Trainer:
    """The authors' model, optimizer and training step."""

    def __init__(self, code: str, device: torch.device, *, dtype: str, compiled: bool, tiny: bool):
        sys.path.insert(0, code)
        _dropped_names()
        with open(f"{code}/configs/pretext/kinetics400/xkd.yaml", encoding="utf-8") as file:
            config = yaml.safe_load(file)
        import models
        import optimizers

        if tiny:
            _shrink()
        torch.manual_seed(0)
        self.device, self.compiled, self.narrow = device, compiled, dtype == "bfloat16"
        self.model = models.get_model(config["model"]).to(device)
        self.model.init_teacher_student_same_weights()
        self.model.set_teacher_no_grad()
        self.model.train()
        settings = config["hyperparams"]
        self.optimizer = optimizers.get_optimizer(
            settings["optimizer"]["name"], self.model,
            weight_decay=None, betas=settings["optimizer"]["betas"],
        )  # fmt: skip
        self.optimizer.param_groups[0]["lr"] = self.optimizer.param_groups[1]["lr"] = 1e-4
        self.optimizer.param_groups[1]["weight_decay"] = settings["weight_decay"]["base"]
        self.ema = settings["vid_ema"]["base"]
        self.options = dict(config["model"]["fwd_kwargs"])
        self.clip = self.options.pop("clip_grad")
        self.frozen_epochs = self.options.pop("freeze_last_layer")
        temperatures = [config["model"][f"{m}_temp_kwargs"] for m in ("video", "audio")]
        for role in ("teacher", "student"):
            values = [t[f"{role}_temp"] for t in temperatures]
            self.options[f"{role}_temp"] = dict(zip(("video", "audio"), values, strict=True))
        self.forward = torch.compile(self.model) if compiled else self.model

    def measure(self, clips: int, rehearse: bool) -> None:
        """Reports seconds per step, clips per second and peak memory."""
        frames, specs = self._views(clips)
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        since = time.perf_counter()
        losses = [self.step(frames, specs)]
        self._wait()
        first = time.perf_counter() - since
        times = reporting.block_times(
            lambda: losses.append(self.step(frames, specs)), self._wait,
            blocks=2 if rehearse else 5, seconds=0.0 if rehearse else 1.0,
        )  # fmt: skip
        seconds = statistics.median(times)
        peak = torch.cuda.max_memory_allocated() if self.device.type == "cuda" else None
        reporting.report(
            "authors", clips=clips, compiled=self.compiled, first_step_seconds=round(first, 2),
            milliseconds=round(1e3 * seconds, 2), clips_per_second=round(clips / seconds, 1),
            milliseconds_of_blocks=[round(1e3 * t, 2) for t in times],
            peak_gib=peak and round(peak / 2**30, 2), loss=losses[-1],
        )  # fmt: skip

    def step(self, frames: list[torch.Tensor], specs: list[torch.Tensor]) -> float:
        """Runs one step as in their loop; returns the loss."""
        self.optimizer.zero_grad()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.narrow):
            loss = self.forward(frames, specs, **self.options)["loss"]
        value = loss.item()
        if not math.isfinite(value):
            raise ArithmeticError(f"The loss is {value}.")
        loss.backward()
        self.model.clip_gradients(self.clip)
        self.model.cancel_gradients_last_layer(0, self.frozen_epochs)
        self.optimizer.step()
        self.model.update_teacher(vm=self.ema, am=self.ema)
        return value

    def _views(self, clips: int) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        shapes = ((3, 32, 112, 112), (3, 8, 96, 96)), ((1, 80, 448), (1, 80, 112))
        frames, specs = (
            [torch.randn(clips, *shape, device=self.device) for shape in of] for of in shapes
        )
        return frames, specs

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def _matmul(device: torch.device, size: int) -> None:
    """Returns the rate of a bfloat16 matrix product, as in `device_rates`."""
    a, b = (torch.randn(size, size, device=device).to(torch.bfloat16) for _ in range(2))
    wait = torch.cuda.synchronize if device.type == "cuda" else (lambda: None)
    times = reporting.block_times(lambda: a @ b, wait, blocks=5, seconds=0.2)
    rate = 2 * size**3 / statistics.median(times)
    reporting.report("matmul", size=size, tflops=round(rate / 1e12, 1))


def _dropped_names() -> None:
    """Defines unused names that the authors' files import and newer libraries lack."""
    from timm.optim import optim_factory

    six = types.ModuleType("torch._six")
    vars(six)["inf"] = math.inf
    sys.modules.setdefault("torch._six", six)
    vars(optim_factory).setdefault("add_weight_decay", None)


def _shrink() -> None:
    """Replaces the authors' base encoder and decoder by tiny ones."""
    from models import modules
    from models.modules import mask_model, vit_audio, vit_video

    sources: list[Any] = [modules, mask_model, vit_audio, vit_video]
    for module in sources:
        for table in ("encoder_dict", "decoder_dict"):
            for name, sizes in getattr(module, table, {}).items():
                if name.startswith("base"):
                    sizes.update(_TINY)


if __name__ == "__main__":
    main()
