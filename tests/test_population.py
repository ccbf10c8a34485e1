"""Settings side by side, and populations that evolve, against closed forms and plain NumPy."""

import dataclasses
import math
from typing import NamedTuple

import gymnax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from rlax_lab import checkpoint, dqn, population, ppo, shards, train
from rlax_lab.config import configuration, setting
from rlax_lab.population import Population, Range
from rlax_lab.types import Learner

# Draws


def test_draws_are_uniform_in_their_ranges():
    """Kolmogorov and Smirnov's test against both closed forms, and fields that do not correlate."""
    space = {"a": Range(-2.0, 3.0), "b": Range(1e-4, 1e-1, log=True)}
    drawn = population.draw(jax.random.key(1), space, 20_000)
    a, b = (np.asarray(drawn[name], np.float64) for name in space)
    assert scipy.stats.kstest(a, scipy.stats.uniform(-2, 5).cdf).pvalue > 0.01
    assert scipy.stats.kstest(b, scipy.stats.loguniform(1e-4, 1e-1).cdf).pvalue > 0.01
    assert scipy.stats.kstest(b, scipy.stats.uniform(1e-4, 1e-1).cdf).pvalue < 1e-9
    assert abs(scipy.stats.spearmanr(a, b).statistic) < 5 / math.sqrt(20_000)


def test_draws_from_a_list_are_even():
    drawn = population.draw(jax.random.key(2), {"a": (0.0, 0.5, 7.0)}, 9000)["a"]
    values, counts = np.unique(np.asarray(drawn), return_counts=True)
    np.testing.assert_array_equal(values, [0.0, 0.5, 7.0])
    assert scipy.stats.chisquare(counts).pvalue > 0.01


@given(
    low=st.floats(1e-6, 10),
    width=st.floats(1e-3, 1e4),
    log=st.booleans(),
    seed=st.integers(0, 2**31 - 1),
)
def test_draws_stay_within_their_range(low, width, log, seed):
    over = Range(low, low + width, log)
    drawn = population.draw(jax.random.key(seed), {"a": over}, 8)["a"]
    assert np.all(drawn >= jnp.float32(over.low))
    assert np.all(drawn <= jnp.float32(over.high))


def test_grid_has_every_combination_in_order():
    space = {"a": (3.0, 1.0), "b": (0.1, 0.2, 0.3), "c": (5.0,)}
    values = population.grid(space)
    points = [(a, b, c) for a in space["a"] for b in space["b"] for c in space["c"]]
    np.testing.assert_array_equal(np.stack(list(values.values()), 1), np.float32(points))
    assert list(values) == ["a", "b", "c"]


# Exploiting and exploring

SCORE = st.one_of(st.sampled_from([0.0, 1.0, math.nan]), st.integers(-1000, 1000).map(float))
# Few sizes, for each is compiled.
SCORES = st.sampled_from([4, 9]).flatmap(lambda n: st.lists(SCORE, min_size=n, max_size=n))


def exploited(key, score, fraction):
    """`population.exploit`, one member at a time."""
    members = len(score)
    count = min(max(1, round(fraction * members)), members // 2)
    known = [-math.inf if math.isnan(x) else x for x in score]
    ranked = sorted(range(members), key=known.__getitem__)
    parents = list(range(members))
    draws = np.asarray(jax.random.randint(key, (count,), 0, count))
    for loser, place in zip(ranked[:count], draws, strict=True):
        winner = ranked[members - count :][place]
        if known[winner] > known[loser]:
            parents[loser] = winner
    return parents


EXPLOIT = jax.jit(population.exploit, static_argnums=2)


def explored(key, values, space, perturbation):
    """`population.explore`, one value at a time, in 64 bits."""
    found = {}
    for k, (name, over) in zip(jax.random.split(key, len(space)), space.items(), strict=True):
        up = np.asarray(jax.random.bernoulli(k, shape=values[name].shape))
        moved = []
        for x, more in zip(np.float64(values[name]), up, strict=True):
            if over.log:
                x = x * (1 + perturbation if more else 1 - perturbation)
            else:
                x += (perturbation if more else -perturbation) * (over.high - over.low)
            moved.append(min(max(x, over.low), over.high))
        found[name] = np.array(moved)
    return found


@given(
    score=SCORES, fraction=st.sampled_from([0.01, 0.2, 0.3, 0.9]), seed=st.integers(0, 2**31 - 1)
)
def test_exploit_is_truncation_selection(score, fraction, seed):
    key = jax.random.key(seed)
    parent = EXPLOIT(key, jnp.array(score, jnp.float32), fraction)
    np.testing.assert_array_equal(parent, exploited(key, np.float32(score).tolist(), fraction))


def test_exploit_draws_evenly_among_the_best():
    score = jnp.array([3.0, 0.0, 9.0, 8.0, jnp.nan, 1.0, 7.0, 2.0, 4.0, 5.0])
    exploit = jax.vmap(lambda key: population.exploit(key, score, 0.3))
    parent = np.asarray(exploit(jax.random.split(jax.random.key(0), 3000)))
    for loser in (4, 1, 5):
        winners, counts = np.unique(parent[:, loser], return_counts=True)
        assert winners.tolist() == [2, 3, 6]
        assert scipy.stats.chisquare(counts).pvalue > 0.01
    others = [0, 2, 3, 6, 7, 8, 9]
    assert np.all(parent[:, others] == others)


SPACE = {"a": Range(-1.0, 2.0), "b": Range(1e-4, 1.0, log=True)}


@given(perturbation=st.floats(0.01, 1.0), seed=st.integers(0, 2**31 - 1))
def test_explore_moves_every_value_within_its_range(perturbation, seed):
    key, draw_key = jax.random.split(jax.random.key(seed))
    values = population.draw(draw_key, SPACE, 6)
    found = population.explore(key, values, SPACE, perturbation)
    for name, want in explored(key, values, SPACE, perturbation).items():
        np.testing.assert_allclose(found[name], want, rtol=1e-5, atol=1e-6)


# Populations of a learner that can be followed by hand


@configuration
class Config:
    """Of `toy`."""

    total_steps: int = setting(70, "steps")
    rate: float = setting(1.0, "what is added to the weight in every update")
    idle: float = setting(1.0, "nothing depends on it")
    start: float = setting(0.0, "the weight at first")


class State(NamedTuple):
    params: jax.Array
    key: jax.Array
    nested: dict
    updates: jax.Array


EVERY = 4  # an episode ends only in every such update


def toy(config):
    """Adds its rate to its weight; the weight is its return, and it diverges above 40."""

    def init(key):
        more = {"keys": jax.random.split(key, 2), "x": jax.random.uniform(key, (2, 3))}
        return State(jnp.float32(config.start), key, more, jnp.int32(0))

    def update(state):
        weight = state.params + config.rate
        weight = jnp.where(weight > 40, jnp.nan, weight)
        updates = state.updates + 1
        ended = jnp.where(updates % EVERY == 0, 1.0, 0.0)
        sums = {"episodes": ended, "episode_return": ended * weight, "gradient_steps": 1.0}
        sums = jax.tree.map(jnp.float32, sums)
        return State(weight, jax.random.split(state.key)[0], state.nested, updates), sums

    return Learner(init, update, None, None, steps_per_update=1, total_steps=config.total_steps)


def test_generations():
    """A run is in at most as many generations as asked for, equal ones, and whole."""
    for steps, generations, want in ((70, 10, (7, 10)), (70, 11, (7, 10)), (70, 30, (3, 24))):
        learner = population.evolving(toy, Config(total_steps=steps), SPACE_OF_TOY, 4, generations)
        assert (learner.steps_per_update, learner.num_updates) == want
        assert steps <= learner.total_steps < steps + want[0]
        assert learner.members == 4


SPACE_OF_TOY = {"rate": Range(0.01, 1.0, log=True), "start": Range(0.0, 8.0)}
MEMBERS, GENERATIONS, FRACTION, PERTURBATION = 8, 35, 0.25, 0.3


def test_population_evolves_as_in_numpy():
    """Scores, parents, values and weights over a whole run, with members that diverge and are
    replaced, and generations in which no episode ended."""
    learner = population.evolving(
        toy, Config(), SPACE_OF_TOY, MEMBERS, GENERATIONS, FRACTION, PERTURBATION
    )
    update = jax.jit(learner.update)
    state = learner.init(jax.random.key(5))
    values = {name: np.asarray(x) for name, x in state.values.items()}
    weight, score = np.float64(values["start"]), np.full(MEMBERS, np.nan)
    key, diverged, copies = state.key, 0, 0
    for generation in range(GENERATIONS):
        key, exploit_key, explore_key = jax.random.split(key, 3)
        parent = exploited(exploit_key, score.tolist(), FRACTION)
        weight, score = weight[parent], score[parent]
        values = {name: x[parent] for name, x in values.items()}
        moved = explored(explore_key, values, SPACE_OF_TOY, PERTURBATION)
        copied = parent != np.arange(MEMBERS)
        copies += np.sum(copied)
        values = {name: np.where(copied, moved[name], x) for name, x in values.items()}
        for i in range(2):
            weight = weight + values["rate"]
            weight[weight > 40] = np.nan
            if (2 * generation + i + 1) % EVERY == 0:
                score = weight.copy()
        score[np.isnan(weight)] = np.nan
        diverged += np.sum(np.isnan(weight))

        state, sums = update(state)
        np.testing.assert_array_equal(state.parent, parent)
        np.testing.assert_allclose(state.members.params, weight, rtol=1e-5)
        np.testing.assert_allclose(state.score, score, rtol=1e-5)
        for name, x in values.items():
            np.testing.assert_allclose(state.values[name], x, rtol=1e-5)
        assert sums["gradient_steps"].tolist() == [2.0] * MEMBERS
    assert diverged > 3
    assert copies > 20
    assert update._cache_size() == 1


def test_a_copy_has_everything_but_the_keys():
    """No two members ever share a key, neither at the start nor after copying."""
    learner = population.evolving(toy, Config(), SPACE_OF_TOY, 4, 35)
    before = learner.init(jax.random.key(0))
    before = before._replace(score=jnp.array([5.0, 1.0, 4.0, 3.0]))
    after = population.evolve(before, SPACE_OF_TOY, 0.25, 0.2)
    assert after.parent.tolist() == [0, 0, 2, 3]
    kept = jax.tree.map(lambda x: x[after.parent], checkpoint.to_numpy(before.members))
    found = checkpoint.to_numpy(after.members)
    for name in ("params", "updates"):
        np.testing.assert_array_equal(getattr(found, name), getattr(kept, name))
    np.testing.assert_array_equal(found.nested["x"], kept.nested["x"])
    for keys in (after.members.key, after.members.nested["keys"]):
        data = np.asarray(jax.random.key_data(keys)).reshape(-1, 2)
        assert len(np.unique(data, axis=0)) == len(data)
    np.testing.assert_array_equal(found.key, checkpoint.to_numpy(before.members.key))
    assert np.any(after.values["rate"][1] != after.values["rate"][0])
    assert jax.random.key_data(after.key).tolist() != jax.random.key_data(before.key).tolist()


def test_equal_scores_copy_nothing():
    for score in (jnp.full(6, jnp.nan), jnp.ones(6)):
        assert population.exploit(jax.random.key(0), score, 0.5).tolist() == list(range(6))


def test_populations_of_other_seeds_begin_elsewhere():
    learner = population.evolving(toy, Config(), SPACE_OF_TOY, 5, 35)
    states = jax.vmap(learner.init)(train.seed_keys(0, 3))
    for x in states.values.values():
        assert len(np.unique(x)) == x.size == 15


def test_fields_on_which_nothing_depends():
    values = {name: jnp.float32(1) for name in ("rate", "idle", "start")}

    def make(values):
        return toy(dataclasses.replace(Config(), **values))

    assert population.unused(make, values, start=True) == ["idle"]
    assert population.unused(make, values, start=False) == ["idle", "start"]


# Real learners

ENV, PARAMS = gymnax.make("CartPole-v1")
PPO = ppo.Config(
    num_envs=8, num_steps=8, num_epochs=2, num_minibatches=2, hidden_sizes=(8,), total_steps=640
)
RAINBOW = dataclasses.replace(
    dqn.RAINBOW,
    num_envs=4,
    num_steps=4,
    num_gradient_steps=4,
    batch_size=16,
    buffer_size=256,
    learning_starts=64,
    num_atoms=11,
    hidden_sizes=(8,),
    total_steps=640,
)


@pytest.mark.slow
def test_a_trial_is_the_run_of_its_setting_alone():
    """To float tolerance, for alone the values are constants of another program; and so are what
    it does and expects, which with DQN depends on where the atoms are."""
    lists = {"v_max": (10.0, 30.0, 100.0), "learning_rate": (1e-3, 1e-2, 1e-4)}
    values = {name: jnp.array(x) for name, x in lists.items()}

    def make(config):
        return dqn.make(ENV, config, PARAMS)

    def trained(learner, key):
        step = lambda _, state: learner.update(state)[0]  # noqa: E731
        return jax.lax.fori_loop(0, 4, step, learner.init(key))

    key = jax.random.key(3)
    swept = population.side_by_side(make, RAINBOW, values)
    assert (swept.members, swept.num_updates) == (3, make(RAINBOW).num_updates)
    together = jax.jit(lambda key: trained(swept, key))(key)
    seen = jax.random.normal(jax.random.key(0), (16, 4))
    acted = jax.vmap(lambda params: swept.act(params, seen))(together.params)
    expected = jax.vmap(lambda params: swept.value(params, seen))(together.params)
    own = dataclasses.replace(RAINBOW, **{name: x[1] for name, x in lists.items()})
    learner = make(own)
    alone = jax.jit(lambda key: trained(learner, key))(key)
    for x, y in zip(
        jax.tree.leaves(checkpoint.to_numpy(alone)),
        jax.tree.leaves(checkpoint.to_numpy(together.members)),
        strict=True,
    ):
        np.testing.assert_allclose(y[1], x, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(acted[1], learner.act(alone.params, seen))
    value = learner.value(alone.params, seen)
    np.testing.assert_allclose(expected[1], value, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_a_population_in_parts():
    """Every part has its own environments and the same weights, scores and values."""
    space = {"learning_rate": Range(1e-4, 1e-2, log=True)}

    def make(config):
        return population.evolving(
            lambda config: ppo.make(ENV, config, PARAMS), config, space, 4, 3
        )

    learner = shards.spread(make, PPO, 2)
    assert (learner.parts, learner.members) == (2, 4)
    state = jax.jit(learner.init)(jax.random.key(0))
    update = jax.jit(learner.update)
    for _ in range(3):
        state, sums = update(state)
    assert isinstance(state, Population)
    assert state.score.shape == state.values["learning_rate"].shape == (4,)
    assert np.all(np.isfinite(state.score))
    assert state.members.key.shape == (2, 4)
    assert sums["episodes"].shape == (4,)
    assert learner.steps_after(learner.num_updates) == learner.total_steps >= 640
