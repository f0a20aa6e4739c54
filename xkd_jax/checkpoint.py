"""Checkpoints: the training state and the position in the data, saved and restored together.

The data position is the step itself: the pipeline starts anywhere from it. The items of a
checkpoint are separate, so that a student or a teacher can be read without the rest.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import orbax.checkpoint as ocp

from xkd_jax.config import CheckpointConfig, Config
from xkd_jax.errors import UserError
from xkd_jax.state import TrainState

# Sections of the config that a resumed run can't change: they decide the shapes of the state or
# which data belong to which step.
FIXED_KEYS = ("seed", "batch_size", "model", "video", "audio")


class Checkpoints:
    """The checkpoints of one run, in `directory`."""

    def __init__(self, directory: Path, config: CheckpointConfig):
        self.directory = directory
        self._manager = ocp.CheckpointManager(
            directory.absolute(),
            options=ocp.CheckpointManagerOptions(
                max_to_keep=config.keep_last or None,
                keep_period=config.keep_every or None,
                enable_async_checkpointing=True,
            ),
        )

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._manager.close()

    def latest(self) -> int | None:
        """The step of the newest complete checkpoint, if there is one."""
        return self._manager.latest_step()

    def wait(self) -> None:
        """Returns when every save that was started is on disk."""
        self._manager.wait_until_finished()

    def save(self, step: int, state: TrainState, config: Config) -> None:
        """Starts saving and returns; the state may be donated afterwards."""
        self._manager.save(
            step,
            args=ocp.args.Composite(
                student=ocp.args.StandardSave(state.student),
                teacher=ocp.args.StandardSave(state.teacher),
                rest=ocp.args.StandardSave(_rest(state)),
                run=ocp.args.JsonSave({"config": dataclasses.asdict(config), "step": step}),
            ),
        )

    def restore(self, step: int, like: TrainState, config: Config) -> TrainState:
        """Reads the state of a step.

        Args:
          step: of a complete checkpoint.
          like: shapes, dtypes and shardings of the state, as `jax.ShapeDtypeStruct`.
          config: of the run that goes on.

        Raises:
          UserError: the checkpoint belongs to another network or other data.
        """
        saved = self._manager.restore(step, args=ocp.args.Composite(run=ocp.args.JsonRestore()))
        self._refuse_other(saved["run"]["config"], config)
        items = self._manager.restore(
            step,
            args=ocp.args.Composite(
                student=ocp.args.StandardRestore(like.student),
                teacher=ocp.args.StandardRestore(like.teacher),
                rest=ocp.args.StandardRestore(_rest(like)),
            ),
        )
        return TrainState(student=items["student"], teacher=items["teacher"], **items["rest"])

    def _refuse_other(self, saved: dict[str, Any], config: Config) -> None:
        current = json.loads(json.dumps(dataclasses.asdict(config)))
        for key in FIXED_KEYS:
            difference = _difference(key, saved.get(key), current[key])
            if difference:
                raise UserError(
                    f"{self.directory} holds a run with another {difference}: give that value, or"
                    " another --workdir for a new run."
                )


def _rest(state: TrainState) -> dict[str, Any]:
    return {"step": state.step, "centres": state.centres, "optimizer": state.optimizer}


def _difference(key: str, saved: Any, current: Any) -> str:
    if isinstance(saved, dict) and isinstance(current, dict):
        for name in sorted(saved.keys() | current.keys()):
            found = _difference(f"{key}.{name}", saved.get(name), current.get(name))
            if found:
                return found
        return ""
    return "" if saved == current else f"{key} ({saved!r}, now {current!r})"


def like(shapes: TrainState, shardings: TrainState) -> TrainState:
    """The description of a state that `Checkpoints.restore` asks for."""
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        shapes,
        shardings,
    )
