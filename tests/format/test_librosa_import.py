"""librosa is imported without compilation, and without a cache folder of numba."""

import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[2]
IMPORT = """
import numba, numpy as np
from numba.core import event
from data_pipelines.format import librosa_import, log_mel
decorators = numba.jit, numba.vectorize, numba.guvectorize
with event.install_recorder("numba:compile") as recorded:
    print(log_mel.log_mel(np.zeros(16000, np.float32)).shape)
    librosa = librosa_import.import_librosa()
    assert len(librosa.resample(np.zeros(80), orig_sr=8, target_sr=16)) == 160
assert not recorded.buffer
assert decorators == (numba.jit, numba.vectorize, numba.guvectorize)
print(librosa.util.abs2(np.array([3 + 4j, 1j])))
"""


def test_import_of_librosa_compiles_nothing(tmp_path):
    folder = tmp_path / "numba"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "NUMBA_CACHE_DIR": str(folder)}
    done = subprocess.run(
        [sys.executable, "-c", IMPORT], env=environment, cwd=tmp_path, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["(80, 112)", "[25.  1.]"]
    assert not folder.exists()
