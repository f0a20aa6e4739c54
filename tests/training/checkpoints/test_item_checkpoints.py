"""Checkpoints of named arrays."""

import subprocess
import sys
from pathlib import Path

import jax
import numpy as np

from xkd_jax.config.pretraining import CheckpointConfig, MeshConfig
from xkd_jax.parallel import mesh as mesh_lib
from xkd_jax.training.checkpoints.item_checkpoints import ItemCheckpoints
from xkd_jax.training.checkpoints.run_record import RunRecord

ROOT = Path(__file__).parents[3]


def test_saving_small_arrays_compiles_only_their_digest(tmp_path, caplog):
    """All eight devices hold this array: slicing it would compile eight programs."""
    whole = jax.NamedSharding(mesh_lib.make_mesh(MeshConfig()), jax.P())
    item = {"w": jax.device_put(np.zeros((23, 41), np.float32), whole)}
    now = RunRecord.of({}, 1, "")
    with ItemCheckpoints(tmp_path, CheckpointConfig(), now) as checkpoints, jax.log_compiles():
        checkpoints.save_items(1, {"item": item})
    texts = [record.getMessage() for record in caplog.records]
    compiled = [text.split()[1] for text in texts if text.startswith("Compiling")]
    assert compiled == ["jit(sums_of_parts)"]  # for all devices


MANY_ARRAYS = """
import os, resource, signal, sys
from pathlib import Path
import jax
import numpy as np
from absl import logging
from xkd_jax import config
from xkd_jax.training.checkpoints.item_checkpoints import ItemCheckpoints
from data_pipelines.errors import UserError
from xkd_jax.training.checkpoints.run_record import RunRecord

logging.set_verbosity(logging.WARNING)  # as commands do
rng = np.random.default_rng(0)
split = jax.NamedSharding(jax.make_mesh((jax.device_count(),), ("d",)), jax.P("d"))
many = {f"a{i}": jax.device_put(rng.random((96, 99)), split) for i in range(64)}
described = jax.tree.map(
    lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), many
)
folder, now = Path(sys.argv[1]), RunRecord.of({}, 1, "")
try:
    with ItemCheckpoints(folder, config.CheckpointConfig(), now) as checkpoints:
        checkpoints.save_items(1, {"many": many})
        checkpoints.save_items(2, {"many": many})
        checkpoints.wait()
        max((folder / "2").rglob("d/*"), key=os.path.getsize).unlink()
        checkpoints.restore_items({"many": described})
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
        checkpoints.save_items(3, {"many": many})
except UserError as error:
    print(error)
"""


def test_error_of_many_arrays_is_one_line(tmp_path):
    """Orbax reads and writes all arrays concurrently, and abandons the others if one fails."""
    ran = subprocess.run(
        [sys.executable, "-c", MANY_ARRAYS, str(tmp_path)],
        capture_output=True, text=True, check=True, cwd=ROOT,
    )  # fmt: skip
    damaged, resumed, full = ran.stdout.splitlines()
    assert "damaged   the checkpoint of step 2: " in damaged
    assert "Error reading" in damaged
    assert "resume    from step 1" in resumed
    assert f"A checkpoint can't be written to {tmp_path} (" in full
    assert ran.stderr == ""
