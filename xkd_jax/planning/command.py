"""The output of `main.py --plan`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from data_pipelines import terminal
from data_pipelines.activity import Activity
from data_pipelines.errors import UserError
from xkd_jax.config.pretraining import Config
from xkd_jax.planning import plan_text, targets
from xkd_jax.planning.candidates import ranked, rate, search, what_would_fit
from xkd_jax.planning.plan import Plan, make_plan
from xkd_jax.planning.targets import Target

_SEARCH = "search:"


def plan(config: Config, request: str, flags: Sequence[str]) -> None:
    """Prints a plan; its last line states whether the run fits, and on a terminal what comes next.

    Args:
      config: the run's config.
      request: `targets.parse`'s, or search: and one of them.
      flags: those of the command line but the request.

    Raises:
      UserError: the devices or their compiler do not exist, or mesh or batch don't fit them.
    """
    where = targets.parse(request.removeprefix(_SEARCH))
    searches = request.startswith(_SEARCH)
    with Activity(f"compiling for {where}"):
        for line in _search(config, where) if searches else _plan(config, where):
            terminal.print_result(line)
    if searches:
        terminal.print_next(f"the same with --plan={where} and the flags of rank 1")
    elif line.startswith(plan_text.FITS):
        terminal.print_next(where.launch(flags))
    else:
        terminal.print_next("the same with the flags that would fit, or on other devices")


def _plan(config: Config, where: Target) -> Iterator[str]:
    found = make_plan(config, where)
    yield from plan_text.lines(found)
    if not found.fits:
        yield from what_would_fit(found)
    yield plan_text.verdict(found)


def _search(config: Config, where: Target) -> Iterator[str]:
    plans: list[Plan] = []
    for found in search(config, where):
        if isinstance(found, str):
            yield found
        else:
            plans.append(found)
            yield f"tried     {list(ranked([found]))[1].strip()}"
    if not plans:
        raise UserError(
            "No mesh or batch fits, for the reasons above: give other devices or another"
            " batch_size."
        )
    yield from ranked(plans)
    fitting = [p for p in plans if p.fits]
    best = max(fitting, key=rate) if fitting else plans[-1]
    yield from plan_text.lines(best)
    yield plan_text.verdict(best)
