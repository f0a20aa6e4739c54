import pickle
import subprocess
import sys
from pathlib import Path

from data_pipelines.build.ingest import IngestOptions
from xkd_jax.inference.file_reader import Reader

ROOT = Path(__file__).parents[2]


def test_worker_that_gets_a_reader_does_not_import_jax():
    """The import of JAX takes seconds and 200 MB in each worker."""
    program = (
        "import pickle, sys; pickle.loads(sys.stdin.buffer.read()); print('jax' in sys.modules)"
    )
    found = subprocess.run(
        [sys.executable, "-c", program],
        input=pickle.dumps(Reader(IngestOptions())), capture_output=True, cwd=ROOT, check=True,
    )  # fmt: skip
    assert found.stdout.strip() == b"False"
