"""Evolution strategies: the direction against NumPy, and a problem with a known answer."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlax_lab import evolution, shards
from rlax_lab.errors import InputError
from rlax_lab.model import Params
from rlax_lab.policy import Policy
from rlax_lab.types import Learner

BEST = np.array([[0.5, -1.0], [2.0, 0.0]], np.float32)


def policy() -> Policy:
    """Weights ``[2, 2]``, and nothing that plays with them."""
    init = lambda key: Params({"w": jnp.zeros((2, 2))}, None)  # noqa: E731
    nothing: Any = None
    return Policy(init, *[nothing] * 6)


def learner(config: evolution.Config, turns: int = 1) -> Learner:
    """Environments are numbers, drawn at the start, that every play adds 1 to."""

    def start(key: jax.Array, number: jax.Array) -> jax.Array:
        return 1000.0 * number + jax.random.uniform(key)

    def play(network: Any, env: jax.Array) -> tuple[jax.Array, jax.Array]:
        return env + 1.0, common(env) - jnp.sum((network["w"] - BEST) ** 2)

    return evolution.make(policy(), start, play, config, turns)


def common(env: Any) -> Any:
    """What both of a pair see: noise that they have in common."""
    return 100.0 * jnp.sin(37.0 * env)


def test_it_finds_the_best_weights() -> None:
    config = evolution.Config(total_steps=12_800, num_envs=16, learning_rate=0.05)
    alone = learner(config)
    state = jax.jit(alone.init)(jax.random.key(0))
    start = np.asarray(state.env)
    state, sums = jax.jit(
        lambda state: jax.lax.scan(lambda s, _: alone.update(s), state, length=alone.num_updates)
    )(state)
    np.testing.assert_allclose(state.params.network["w"], BEST, atol=0.05)
    assert int(state.steps) == alone.total_steps == 12_800
    np.testing.assert_allclose(state.env, start + alone.num_updates, rtol=1e-5)
    assert np.ptp(start % 1000) > 0.3
    np.testing.assert_array_equal(sums["episodes"], 32)


@pytest.mark.parametrize("parts", [1, 2])
def test_environments_take_turns(parts: int) -> None:
    """An update plays those that waited longest; all parts' have numbers of their own."""
    config = evolution.Config(total_steps=1, num_envs=4)
    parted = shards.spread(lambda config: learner(config, turns=3), config, parts)
    state = jax.jit(parted.init)(jax.random.key(0))
    number = lambda env: np.floor(np.asarray(env) / 1000).astype(int)  # noqa: E731
    first = number(state.env).reshape(parts, -1)
    np.testing.assert_array_equal(first.ravel(), np.arange(12))
    plays = np.zeros((parts, 12 // parts))
    n = 4 // parts
    for update in range(5):
        before = np.asarray(state.env).reshape(parts, -1)
        state, sums = jax.jit(parted.update)(state)
        after = np.asarray(state.env).reshape(parts, -1)
        np.testing.assert_array_equal(after[:, :-n], before[:, n:])
        np.testing.assert_allclose(after[:, -n:], before[:, :n] + 1)
        at = (n * update + np.arange(n)) % (12 // parts)
        np.testing.assert_array_equal(number(after[:, -n:]), first[:, at])
        plays[:, at] += 1
    assert (plays.min(), plays.max()) == (1, 2)
    assert float(sums["episodes"]) == 8


@pytest.mark.parametrize("pairs", [1, 7, 32])
def test_the_direction_is_the_noise_weighted_by_how_much_better_it_was(pairs: int) -> None:
    """Against float64; no pair counts for more than two root mean squares."""
    rng = np.random.default_rng(pairs)
    noise = {"a": rng.normal(size=(pairs, 3, 2)), "b": rng.normal(size=(pairs, 4))}
    better = rng.standard_cauchy(size=pairs)
    spread = np.sqrt(np.mean(better**2))
    weight = np.clip(better / spread, -2, 2)
    found, root = evolution.gradient_of(jax.tree.map(jnp.float32, noise), jnp.float32(better))
    np.testing.assert_allclose(root, spread, rtol=1e-5)
    for name, x in noise.items():
        wanted = -sum(w * e for w, e in zip(weight, x, strict=True)) / pairs
        np.testing.assert_allclose(found[name], wanted, atol=1e-5)


def test_pairs_are_held_against_each_other_in_parts_of_what_both_returned() -> None:
    first, second = jnp.array([-1.0, 30.0, -2.0, 0.0, 5.0]), jnp.array([-3.0, 10.0, 2.0, 0.0, 5.0])
    np.testing.assert_allclose(evolution.advantage(first, second), [0.5, 0.5, -1.0, 0.0, 0.0])
    larger = evolution.advantage(1e6 * first, 1e6 * second)
    np.testing.assert_allclose(larger, evolution.advantage(first, second))


def test_pairs_that_are_alike_move_nothing() -> None:
    found, root = evolution.gradient_of(jnp.ones((4, 3)), jnp.zeros(4))
    np.testing.assert_array_equal(found, np.zeros(3))
    assert root == 0


@pytest.mark.parametrize("differences", ["relative", "plain"])
def test_parts_learn_as_one(differences: str) -> None:
    """Two parts have the mean of what each would add, and environments of their own."""
    config = evolution.Config(total_steps=64, num_envs=8, differences=differences)
    parted = shards.spread(learner, config, 2)
    state = jax.jit(parted.init)(jax.random.key(0))
    assert state.env.shape == (2, 4)
    assert len(np.unique(state.env)) == 8
    after, sums = jax.jit(parted.update)(state)
    half = learner(evolution.Config(total_steps=32, num_envs=4, differences=differences))
    directions = []
    for part in range(2):
        own = state._replace(env=state.env[part], key=state.key[part])
        noise_key = jax.random.split(own.key)[1]
        noise = evolution._normal(noise_key, own.params.network, 4)
        returns = [
            common(own.env)
            - np.sum((sign * config.noise * np.asarray(noise["w"]) - BEST) ** 2, (1, 2))
            for sign in (1, -1)
        ]
        first, second = returns
        plain = differences == "plain"
        better = first - second if plain else evolution.advantage(first, second)
        directions.append((noise["w"], better))
        alone, _ = jax.jit(half.update)(own)
        np.testing.assert_allclose(alone.env, after.env[part])
    noises, better = (np.concatenate(x) for x in zip(*directions, strict=True))
    wanted, _ = evolution.gradient_of(noises, better)
    # Adam's first step has the sign of the gradient.
    moved = np.asarray(after.params.network["w"])
    np.testing.assert_allclose(moved, -config.learning_rate * np.sign(wanted), rtol=1e-3)
    assert float(sums["episodes"]) == 16


def test_bad_settings() -> None:
    with pytest.raises(InputError, match="noise is 0"):
        learner(evolution.Config(noise=0.0))
