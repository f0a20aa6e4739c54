"""Linear SVMs, one against the rest, by a truncated Newton method for all classes at once.

The problem is LIBLINEAR's L2-regularized squared hinge loss in the primal, as in scikit-learn's
LinearSVC: for each class, with targets y of 1 and -1 and a constant 1 appended to x,

    minimize  |w|^2 / 2 + cost * sum_i max(0, 1 - y_i w.x_i)^2.

All classes share x: a gradient or a Hessian product of all classes is two matrix products, sharded
over the samples. Conjugate gradients use the basis of the features' principal axes, where the
Hessian is nearly diagonal; without it, features with a large constant direction, such as mean
tokens, need hundreds of iterations.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from data_pipelines.progress import ProgressMeter
from xkd_jax.config.evaluation import SvmConfig
from xkd_jax.parallel.axis_rules import RULES
from xkd_jax.parallel.processes import print_on_main

_CG_ITERATIONS = 30
_CG_TOLERANCE = 0.1  # relative to the gradient's norm: Newton's direction need not be exact
_LINE_SEARCH_ITERATIONS = 12
_HIGHEST = jax.lax.Precision.HIGHEST


def fit_path(
    features: np.ndarray, labels: np.ndarray, classes: int, config: SvmConfig, mesh: Mesh
) -> dict[float, np.ndarray]:
    """Fits the SVMs of all costs; each fit starts from the solution of the next smaller cost.

    Prints progress, and the number of classes not solved within `config.max_iterations`.

    Args:
      features: float32 [samples, width].
      labels: int [samples].
      classes: number of classes.
      config: costs, tolerance and number of iterations.
      mesh: samples are sharded over the axes of the batch.

    Returns:
      {cost: float32 [width + 1, classes]}, with the intercepts last; see `decide`.
    """
    second_moment, solve = _programs(mesh)
    problem, axes = _prepare(features, labels, mesh, second_moment)
    weights = jnp.zeros((features.shape[1] + 1, classes), jnp.float32)
    found: dict[float, np.ndarray] = {}
    meter = ProgressMeter("svm       costs", len(config.costs), "costs")
    for cost in sorted(config.costs):
        weights, solved = solve(problem, weights, cost, config.tolerance, config.max_iterations)
        if not np.all(solved):
            print_on_main(
                f"svm       cost {cost:g}: {np.sum(~np.asarray(solved))} of {classes} classes not"
                f" solved after {config.max_iterations} iterations: raise svm.max_iterations"
            )
        found[cost] = (axes @ np.asarray(weights, np.float64)).astype(np.float32)
        if meter.is_due():
            print_on_main(meter.line(len(found)))
    return found


@functools.cache
def _programs(mesh: Mesh) -> tuple[Callable[..., jax.Array], Callable[..., Any]]:
    """Returns the jitted `_second_moment` and `_solve`, with replicated results."""
    whole = NamedSharding(mesh, PartitionSpec())
    return (
        jax.jit(_second_moment, out_shardings=whole),
        jax.jit(_solve, static_argnums=4, out_shardings=whole),
    )


def decide(weights: np.ndarray, features: np.ndarray) -> np.ndarray:
    """Returns decision values, float32 [..., classes].

    Args:
      weights: float32 [width + 1, classes], with the intercepts last.
      features: float32 [..., width].
    """
    return features @ weights[:-1] + weights[-1]


class _Problem(NamedTuple):
    """The samples in the basis of their principal axes.

    x: float32 [samples, axes]; labels: int32 [samples]; used: float32 [samples], 0 for padding;
    spectrum: float32 [axes], the eigenvalues of x.T x.
    """

    x: jax.Array
    labels: jax.Array
    used: jax.Array
    spectrum: jax.Array


def _prepare(
    features: np.ndarray, labels: np.ndarray, mesh: Mesh, second_moment: Callable[..., jax.Array]
) -> tuple[_Problem, np.ndarray]:
    """Returns the sharded problem in the principal axes' basis, and the axes [width + 1, axes]."""
    samples = len(features)
    parts = math.prod(mesh.shape[name] for name in RULES["batch"])
    rows = -(-samples // parts) * parts
    by_sample = NamedSharding(mesh, PartitionSpec(RULES["batch"]))

    def spread(values: np.ndarray) -> jax.Array:
        def shard(index: Any) -> np.ndarray:
            start, stop, _ = index[0].indices(rows)
            part = values[start : min(stop, samples)]
            padding = [(0, stop - start - len(part)), *[(0, 0)] * (values.ndim - 1)]
            return np.pad(part, padding)

        return jax.make_array_from_callback((rows, *values.shape[1:]), by_sample, shard)

    used = spread(np.ones(samples, np.float32))
    x = _append_constant(spread(features.astype(np.float32, copy=False)), used)
    eigenvalues, axes = np.linalg.eigh(np.asarray(second_moment(x), np.float64))
    turned = jnp.matmul(x, jnp.asarray(axes, jnp.float32), precision=_HIGHEST)
    spectrum = jnp.asarray(np.maximum(eigenvalues, 0), jnp.float32)
    return _Problem(turned, spread(labels.astype(np.int32)), used, spectrum), axes


@jax.jit
def _append_constant(x: jax.Array, used: jax.Array) -> jax.Array:
    return jnp.concatenate([x, used[:, None]], axis=1)


def _second_moment(x: jax.Array) -> jax.Array:
    return jnp.matmul(x.T, x, precision=_HIGHEST)


@dataclasses.dataclass(frozen=True)
class _Objective:
    """Loss of every class and its derivatives, as functions of margins w.x [samples, classes].

    Weights, directions and gradients are float32 [axes, classes].
    """

    problem: _Problem
    cost: jax.Array

    def margins(self, weights: jax.Array) -> jax.Array:
        return jnp.matmul(self.problem.x, weights, precision=_HIGHEST)

    def _signs(self, margins: jax.Array) -> jax.Array:
        own = self.problem.labels[:, None] == jnp.arange(margins.shape[1])[None]
        return jnp.where(own, 1.0, -1.0) * self.problem.used[:, None]

    def violations(self, margins: jax.Array) -> jax.Array:
        """y * max(0, 1 - y w.x); 0 for padding."""
        signs = self._signs(margins)
        return signs * jnp.maximum(0, 1 - signs * margins)

    def loss(self, weights: jax.Array, margins: jax.Array) -> jax.Array:
        violations = self.violations(margins)
        return _dot(weights, weights) / 2 + self.cost * _dot(violations, violations)

    def gradient(self, weights: jax.Array, margins: jax.Array) -> jax.Array:
        return weights - 2 * self.cost * self._transposed(self.violations(margins))

    def hessian_times(self, direction: jax.Array, active: jax.Array) -> jax.Array:
        products = jnp.where(active, self.margins(direction), 0)
        return direction + 2 * self.cost * self._transposed(products)

    def _transposed(self, per_sample: jax.Array) -> jax.Array:
        return jnp.matmul(self.problem.x.T, per_sample, precision=_HIGHEST)

    def precondition(self, gradient: jax.Array, active: jax.Array) -> jax.Array:
        """Divides by the Hessian's diagonal, with the spectrum of all samples for active ones."""
        fraction = active.sum(0, keepdims=True) / self.problem.used.sum()
        return gradient / (1 + 2 * self.cost * fraction * self.problem.spectrum[:, None])


def _dot(a: jax.Array, b: jax.Array) -> jax.Array:
    """Inner products of each class, [1, classes]."""
    return (a * b).sum(0, keepdims=True)


def _solve(
    problem: _Problem, weights: jax.Array, cost: float, tolerance: float, max_iterations: int
) -> tuple[jax.Array, jax.Array]:
    """Newton's method from `weights`, until each class's expected decrease is within tolerance.

    Returns:
      The weights, and which classes are solved, bool [classes].
    """
    objective = _Objective(problem, jnp.float32(cost))

    def step(state: Any) -> Any:
        weights, margins, solved, iteration = state
        active = objective.violations(margins) != 0
        gradient = objective.gradient(weights, margins)
        direction = _newton_direction(objective, gradient, active)
        direction = jnp.where(solved, 0, direction)
        change = objective.margins(direction)
        length = _line_search(objective, weights, margins, direction, change)
        # twice the decrease of a quadratic loss
        decrease = -_dot(gradient, direction)
        solved = solved | (decrease <= 2 * tolerance * objective.loss(weights, margins))
        weights, margins = weights + length * direction, margins + length * change
        return weights, margins, solved, iteration + 1

    unsolved = jnp.zeros((1, weights.shape[1]), bool)
    start = (weights, objective.margins(weights), unsolved, jnp.int32(0))
    weights, _, solved, _ = jax.lax.while_loop(
        lambda state: (state[3] < max_iterations) & ~state[2].all(), step, start
    )
    return weights, solved[0]


def _newton_direction(objective: _Objective, gradient: jax.Array, active: jax.Array) -> jax.Array:
    """Solves Hessian x = -gradient by preconditioned conjugate gradients, for all classes at once.

    Converged classes are not changed by further iterations.
    """
    goal = _CG_TOLERANCE * jnp.linalg.norm(gradient, axis=0, keepdims=True)

    def step(state: Any) -> Any:
        x, residual, direction, decrease, iteration = state
        unsolved = jnp.linalg.norm(residual, axis=0, keepdims=True) > goal
        product = objective.hessian_times(direction, active)
        length = jnp.where(unsolved, decrease / jnp.maximum(_dot(direction, product), 1e-30), 0)
        x, residual = x + length * direction, residual - length * product
        conditioned = objective.precondition(residual, active)
        next_decrease = _dot(residual, conditioned)
        turn = next_decrease / jnp.maximum(decrease, 1e-30)
        direction = jnp.where(unsolved, conditioned + turn * direction, direction)
        return (
            x,
            residual,
            direction,
            jnp.where(unsolved, next_decrease, decrease),
            iteration + 1,
        )

    def unfinished(state: Any) -> jax.Array:
        left = jnp.linalg.norm(state[1], axis=0, keepdims=True)
        return (state[4] < _CG_ITERATIONS) & (left > goal).any()

    residual = -gradient
    conditioned = objective.precondition(residual, active)
    start = (
        jnp.zeros_like(gradient), residual, conditioned, _dot(residual, conditioned), jnp.int32(0),
    )  # fmt: skip
    return jax.lax.while_loop(unfinished, step, start)[0]


def _line_search(
    objective: _Objective,
    weights: jax.Array,
    margins: jax.Array,
    direction: jax.Array,
    change: jax.Array,
) -> jax.Array:
    """Returns the step lengths [1, classes] that minimize the loss along the direction.

    The slope is piecewise linear and increasing; its zero is found by Newton steps within a
    shrinking bracket, without matrix products.
    """
    fixed, quadratic = _dot(weights, direction), _dot(direction, direction)

    def slopes(length: jax.Array) -> tuple[jax.Array, jax.Array]:
        violations = objective.violations(margins + length * change)
        slope = fixed + length * quadratic - 2 * objective.cost * _dot(violations, change)
        curvature = quadratic + 2 * objective.cost * _dot(
            (violations != 0).astype(jnp.float32), jnp.square(change)
        )
        return slope, curvature

    def step(_: int, state: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        length, low, high = state
        slope, curvature = slopes(length)
        low, high = jnp.where(slope < 0, length, low), jnp.where(slope < 0, high, length)
        tried = length - slope / jnp.maximum(curvature, 1e-30)
        inside = (tried > low) & (tried < high)
        return jnp.where(inside, tried, (low + high) / 2), low, high

    one = jnp.ones((1, weights.shape[1]), jnp.float32)
    return jax.lax.fori_loop(0, _LINE_SEARCH_ITERATIONS, step, (one, 0 * one, 16 * one))[0]
