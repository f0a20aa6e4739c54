"""A process that saves checkpoints and restores the last one, for tests of TensorStore's requests.

Arguments: URL of the folder, steps. Prints the step that was restored, or the type of the error.
"""

import sys

import tiny_state
from small_run import SMALL
from tiny_checkpoints import restored, saved

from data_pipelines.errors import UserError
from data_pipelines.format import retries
from data_pipelines.format.storage import Url

retries.FIRST_WAIT, retries.TRIES = 0.01, 3
url, *steps = sys.argv[1:]
try:
    saved(SMALL, Url(url), *map(int, steps))
    found = restored(SMALL, Url(url))
    tiny_state.assert_same(found, tiny_state.fill(int(steps[-1])))
    print("restored", found.step)
except UserError as error:
    print(type(error).__name__, error.status, error)
