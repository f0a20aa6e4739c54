"""The one exception that means "the input is at fault, not the program"."""


class UserError(Exception):
    """Bad input: one sentence that names the thing at fault and the remedy.

    `main.py` and the command-line tools print the sentence and exit with status 2; every other
    exception keeps its traceback.
    """
