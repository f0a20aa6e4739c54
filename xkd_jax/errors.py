"""Exceptions that say what went wrong in one sentence for the person who started the run."""


class UserError(Exception):
    """Bad input: one sentence that names the thing at fault and the remedy.

    `main.py` and the command-line tools print the sentence and exit with status 2; every other
    exception keeps its traceback.
    """


class TrainingDivergedError(UserError):
    """A loss was not finite.

    Attributes:
      step: the first step at which it was not.
      term: the losses (or other metrics) that were not.
      checkpoint: step of the last good checkpoint, or None.
    """

    def __init__(self, step: int, term: str, checkpoint: int | None):
        good = (
            "there is no checkpoint yet"
            if checkpoint is None
            else f"the last good checkpoint is of step {checkpoint}"
        )
        super().__init__(
            f"Step {step}: {term} is not finite; the run stops without saving, {good}: lower"
            " optimizer.learning_rate, or go on with another seed."
        )
        self.step, self.term, self.checkpoint = step, term, checkpoint
