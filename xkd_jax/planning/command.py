"""The output of `main.py --plan`."""

from __future__ import annotations

from collections.abc import Iterator

from data_pipelines import terminal
from data_pipelines.errors import UserError
from xkd_jax.config.pretraining import Config
from xkd_jax.planning import plan_text
from xkd_jax.planning.plan import Plan, make_plan
from xkd_jax.planning.search import ranked, search, what_would_fit
from xkd_jax.planning.slices import Slice

_SEARCH = "search:"


def plan(config: Config, request: str) -> None:
    """Prints a plan; its last line states whether the run fits.

    Args:
      config: the run's config.
      request: GENERATION:SHAPE, or search:GENERATION:SHAPE.

    Raises:
      UserError: the slice or its compiler does not exist, or mesh or batch don't fit the slice.
    """
    where = Slice.parse(request.removeprefix(_SEARCH))
    for line in _search(config, where) if request.startswith(_SEARCH) else _plan(config, where):
        terminal.print_result(line)


def _plan(config: Config, where: Slice) -> Iterator[str]:
    found = make_plan(config, where)
    yield from plan_text.lines(found)
    if not found.fits:
        yield from what_would_fit(found)
    yield plan_text.verdict(found)


def _search(config: Config, where: Slice) -> Iterator[str]:
    plans: list[Plan] = []
    for found in search(config, where):
        if isinstance(found, str):
            yield found
        else:
            plans.append(found)
            yield f"tried     {list(ranked([found]))[1].strip()}"
    if not plans:
        raise UserError(
            "No mesh or batch fits, for the reasons above: give another slice or batch_size."
        )
    yield from ranked(plans)
    fitting = [p for p in plans if p.fits]
    best = max(fitting, key=lambda p: p.clips_per_second) if fitting else plans[-1]
    yield from plan_text.lines(best)
    yield plan_text.verdict(best)
