"""Plans with given numbers, without a compiler."""

import jax
import numpy as np

from xkd_jax.config.length import Length
from xkd_jax.planning.costs import Costs
from xkd_jax.planning.plan import Memory, Plan
from xkd_jax.planning.roofline import Compiled, Step


def plan(config, where):
    """Returns a plan of 50 ms by the roofline and, on TPUs, 100 ms by cycles; 4 GiB a device."""
    compiled = Compiled(operations=0.08, kernels=0.02, rest=0.0) if where.chip.clock else None
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("data",))
    return Plan(
        config, where, mesh, Length(10, 5), Memory(np.float64(0), 0, 0, 0, 4 * 2**30), 1e12,
        compiles=True, costs=Costs((), ()), step=Step(0.03, 0.05, 0.05, 0, 0, compiled),
    )  # fmt: skip
