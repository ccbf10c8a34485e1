"""Many runs of one algorithm as one learner: settings side by side, or a population that evolves.

The runs differ in float fields of their configuration, which are arrays in the state, so that one
compiled program is for all of them. What is made here is a `Learner` like any other, and its
`members` says how many runs it is.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rlax_lab import metrics, shards
from rlax_lab.types import Learner, PyTree


class Range(NamedTuple):
    """All numbers from `low` to `high`, spread evenly, or evenly in their logarithm."""

    low: float
    high: float
    log: bool = False


# What fields are searched over: a range, or a list of values.
Space = dict[str, Range | tuple[float, ...]]
Values = dict[str, jax.Array]


class Setting(NamedTuple):
    """What one member acts with: its values of the searched fields, and its learner's params."""

    values: Values
    params: PyTree


class Population(NamedTuple):
    """T runs of one seed; to save it is to be able to resume all of them exactly.

    Attributes:
      values: what each trains with now ``[T]``, by field.
      members: the learner's states ``[T, ...]``.
      score: of a population that evolves, the latest mean return in training ``[T]``.
      parent: of one that evolves, whom each copied before its latest updates, or itself ``[T]``.
      key: of one that evolves, for that.
    """

    values: Values
    members: PyTree
    score: jax.Array | None = None
    parent: jax.Array | None = None
    key: jax.Array | None = None

    @property
    def params(self) -> Setting:
        """What acting needs ``[T, ...]``."""
        return Setting(self.values, self.members.params)

    @property
    def labels(self) -> dict[str, jax.Array]:
        """What is to be said of each member beside its metrics ``[T]``."""
        return self.values | ({} if self.parent is None else {"parent": self.parent})


def draw(key: jax.Array, space: Space, size: int) -> Values:
    """Independent values of every field of `space` ``[size]``."""
    keys = jax.random.split(key, len(space))
    return {name: _draw(k, space[name], size) for k, name in zip(keys, space, strict=True)}


def _draw(key: jax.Array, over: Range | tuple[float, ...], size: int) -> jax.Array:
    if not isinstance(over, Range):
        return jnp.array(over)[jax.random.randint(key, (size,), 0, len(over))]
    low, high = (math.log(x) if over.log else x for x in (over.low, over.high))
    x = low + (high - low) * jax.random.uniform(key, (size,))
    return jnp.clip(jnp.exp(x) if over.log else x, over.low, over.high)


def grid(space: Space) -> Values:
    """All combinations of lists of values; those of the last field follow each other."""
    points = np.array(list(itertools.product(*space.values())), np.float32)
    return dict(zip(space, jnp.asarray(points.T), strict=True))


def side_by_side(make: Callable[[Any], Learner], config: Any, values: Values) -> Learner:
    """The runs of several settings as one learner.

    Each is the run that its setting would be alone: they have the same key, and share nothing.

    Args:
      make: from a configuration to a learner.
      config: of all; `values` replace its fields.
      values: of T settings ``[T]``, by field.
    """
    one = _member_of(make, config)

    def init(key: jax.Array) -> Population:
        return Population(values, jax.vmap(lambda values: one(values).init(key))(values))

    def update(population: Population) -> tuple[Population, metrics.Metrics]:
        members, sums = _update(one, population)
        return population._replace(members=members), sums

    return _as_one(make(config), one, len(next(iter(values.values()))))._replace(
        init=init, update=update
    )


def evolving(
    make: Callable[[Any], Learner],
    config: Any,
    space: Space,
    members: int,
    generations: int,
    fraction: float = 0.2,
    perturbation: float = 0.2,
) -> Learner:
    """Population-based training (Jaderberg et al. 2017, "Population Based Training of Neural
    Networks"), as one learner.

    One update is a generation: the members `evolve`, and train for as many updates as there are in
    a run divided by `generations`, rounded up; the run is rounded up to whole generations. What
    members are compared by is the mean return of the episodes that ended in training in their last
    generation (paper, section 4.1: the last 10 episodes), which takes no steps of its own.

    Args:
      make: from a configuration to a learner.
      config: of all; draws from `space` replace its fields.
      space: ranges, within which members begin and stay.
      members: how many.
      generations: at most how many.
      fraction, perturbation: as of `evolve`.
    """
    whole = make(config)
    updates = -(-whole.num_updates // generations)
    total_steps = whole.steps_after(-(-whole.num_updates // updates) * updates)
    config = dataclasses.replace(config, total_steps=total_steps)
    one = _member_of(make, config)

    def init(key: jax.Array) -> Population:
        key, draw_key, start_key = jax.random.split(key, 3)
        values = draw(draw_key, space, members)
        start = jax.vmap(lambda values, key: one(values).init(key))
        return Population(
            values,
            start(values, jax.random.split(start_key, members)),
            score=jnp.full(members, jnp.nan, jnp.float32),
            parent=jnp.arange(members),
            key=key,
        )

    def update(population: Population) -> tuple[Population, metrics.Metrics]:
        population = evolve(population, space, fraction, perturbation)

        def body(_: jax.Array, carry: Any) -> Any:
            population, sums = carry
            states, more = _update(one, population)
            return population._replace(members=states), jax.tree.map(jnp.add, sums, more)

        shapes = jax.eval_shape(lambda population: _update(one, population)[1], population)
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        population, sums = jax.lax.fori_loop(0, updates, body, (population, zeros))
        return population._replace(score=_score(population, sums)), sums

    learner = _as_one(make(config), one, members)
    return learner._replace(
        init=init, update=update, steps_per_update=updates * learner.steps_per_update
    )


def evolve(
    population: Population, space: Space, fraction: float, perturbation: float
) -> Population:
    """The worst members copied from the best, and their values perturbed.

    A copy is of everything, weights, optimiser, environments, replay and values, but for the random
    keys, which stay the copier's own.

    Args:
      population: whose scores say who is how good.
      space, perturbation: as of `explore`.
      fraction: as of `exploit`.
    """
    assert population.score is not None
    assert population.key is not None
    key, exploit_key, explore_key = jax.random.split(population.key, 3)
    parent = exploit(exploit_key, population.score, fraction)

    def inherit(x: jax.Array) -> jax.Array:
        return x if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x[parent]

    inherited = {name: x[parent] for name, x in population.values.items()}
    explored = explore(explore_key, inherited, space, perturbation)
    copied = parent != jnp.arange(len(parent))
    return Population(
        {name: jnp.where(copied, explored[name], x) for name, x in inherited.items()},
        jax.tree.map(inherit, population.members),
        population.score[parent],
        parent,
        key,
    )


def exploit(key: jax.Array, score: jax.Array, fraction: float) -> jax.Array:
    """Whom each member becomes a copy of ``[T]``, itself for most: truncation selection.

    Each of the worst `fraction` copies one of the best `fraction`, drawn evenly, if that scored
    more (Jaderberg et al. 2017, section 4.1). A score of NaN is the worst there is.
    """
    members = len(score)
    count = min(max(1, round(fraction * members)), members // 2)
    score = jnp.where(jnp.isnan(score), -jnp.inf, score)
    order = jnp.argsort(score)
    worst, best = order[:count], order[-count:]
    drawn = best[jax.random.randint(key, (count,), 0, count)]
    better = score[drawn] > score[worst]
    return jnp.arange(members).at[worst].set(jnp.where(better, drawn, worst))


def explore(key: jax.Array, values: Values, space: Space, perturbation: float) -> Values:
    """Values ``[T]`` perturbed up or down, at even odds for each, within their ranges.

    Those of a logarithmic range are multiplied by 1 + `perturbation` or 1 - `perturbation`
    (Jaderberg et al. 2017, section 4.1: 1.2 or 0.8). Those of a linear one, which may be about 0
    or end at 1, move by `perturbation` times its width.
    """
    explored = {}
    for k, name in zip(jax.random.split(key, len(space)), space, strict=True):
        over, x = space[name], values[name]
        assert isinstance(over, Range)
        sign = jnp.where(jax.random.bernoulli(k, shape=x.shape), 1.0, -1.0)
        step = x if over.log else over.high - over.low
        explored[name] = jnp.clip(x + sign * perturbation * step, over.low, over.high)
    return explored


def unused(learner: Callable[[Values], Learner], values: Values, start: bool) -> list[str]:
    """The fields of which nothing depends that is computed.

    Args:
      learner: from values of some fields to a learner.
      values: of one setting.
      start: whether `init` counts, or only what comes after it.
    """

    def run(values: Values, key: jax.Array) -> PyTree:
        return learner(values).update(learner(values if start else fixed).init(key))

    fixed: Any = {name: float(x) for name, x in values.items()}
    jaxpr = jax.make_jaxpr(run)(values, jax.random.key(0)).jaxpr
    used = {id(x) for equation in jaxpr.eqns for x in equation.invars}
    arguments = zip(sorted(values), jaxpr.invars[: len(values)], strict=True)
    return [name for name, argument in arguments if id(argument) not in used]


def leader(lines: list[dict[str, Any]], fields: Iterable[str]) -> str:
    """Which trial of a report is the best, with its mean over seeds; of an evolving one, member.

    Args:
      lines: of `metrics.jsonl`.
      fields: what is searched over.
    """
    trials: dict[Any, list[dict[str, Any]]] = {}
    for line in lines:
        place = (line["trial"], line["seed"]) if "parent" in line else line["trial"]
        trials.setdefault(place, []).append(line)

    def mean(lines: list[dict[str, Any]]) -> float:
        known = [line["eval_return"] for line in lines if line["eval_return"] is not None]
        return sum(known) / len(known) if known else -math.inf

    best = max(trials.values(), key=mean)
    if mean(best) == -math.inf:
        return ""
    values = {name: best[0][name] for name in fields}
    return f"best {mean(best):.1f} of trial {best[0]['trial']} ({told(values)})"


def told(values: dict[str, float]) -> str:
    """A setting in words."""
    return ", ".join(f"{name} {x:.3g}" for name, x in values.items())


def _member_of(make: Callable[[Any], Learner], config: Any) -> Callable[[Values], Learner]:
    return lambda values: make(dataclasses.replace(config, **values))


def _as_one(learner: Learner, one: Callable[[Values], Learner], members: int) -> Learner:
    """`learner` as that of many, but for its `init` and `update`."""

    def act(setting: Setting, observation: PyTree, key: jax.Array | None = None) -> PyTree:
        return one(setting.values).act(setting.params, observation, key)

    def value(setting: Setting, observation: PyTree) -> jax.Array:
        return one(setting.values).value(setting.params, observation)

    axes = None if learner.axes is None else shards.axes(Population, members=learner.axes)
    return learner._replace(act=act, value=value, axes=axes, members=members)


def _update(
    one: Callable[[Values], Learner], population: Population
) -> tuple[PyTree, metrics.Metrics]:
    """One update of every member."""
    update = jax.vmap(lambda values, state: one(values).update(state))
    return update(population.values, population.members)


def _score(population: Population, sums: metrics.Metrics) -> jax.Array:
    """Mean returns in training ``[T]``: NaN of a member that diverged, and those of before where no
    episode ended."""
    assert population.score is not None
    ended, total = shards.mean((sums["episodes"], sums["episode_return"]))
    score = jnp.where(ended > 0, total / jnp.maximum(ended, 1e-9), population.score)
    return jnp.where(finite(population.params), score, jnp.nan)


def finite(params: Setting) -> jax.Array:
    """Whether all that each member acts with is finite ``[T]``, of params ``[T, ...]``."""
    leaves = [x.reshape(len(x), -1) for x in jax.tree.leaves(params)]
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(x), axis=1) for x in leaves]), axis=0)
