"""Running statistics and reward scaling against float64 over everything seen."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlax_lab.normalize import Moments, RewardScale, standardize
from tests import reference

include = jax.jit(Moments.include)
apply = jax.jit(RewardScale.apply)


def batches(offset=0.0):
    """Batches of different sizes and leading axes of (vector [3], scalar []) examples."""
    rng = np.random.default_rng(0)
    spread = np.array([1.0, 0.1, 10.0])
    return [
        {
            "vector": (offset + spread * rng.normal(size=(*lead, 3))).astype(np.float32),
            "scalar": (offset - rng.exponential(size=lead)).astype(np.float32),
        }
        for lead in [(1,), (7,), (40, 5), (3, 1), (64, 8), (7,)]
    ]


def after(data):
    moments = Moments.like(jax.tree.map(lambda x: x[0], data[0]))
    for batch in data:
        moments = include(moments, batch)
    return moments


@pytest.mark.parametrize(("offset", "std_error"), [(0.0, 1e-6), (-100.0, 1e-5), (1e4, 1e-3)])
def test_moments_are_those_of_everything_seen(offset, std_error):
    """Batches one after the other give mean and deviation of all of them at once.

    The mean is right to three spacings of float32 (half a spacing for each of six batches), the
    deviation to 1e-3 at an offset of 1e4, where the spacing is 1% of the smallest (0.1).
    """
    mean_error = 3 * np.spacing(np.float32(abs(offset) + 10))
    data = batches(offset)
    moments = after(data)
    assert moments.total == sum(batch["scalar"].size for batch in data)
    std = moments.std()
    for name in ("vector", "scalar"):
        shape = data[0][name].shape[1:]
        everything = np.concatenate([np.float64(b[name]).reshape(-1, *shape) for b in data])
        np.testing.assert_allclose(moments.mean[name], everything.mean(0), rtol=0, atol=mean_error)
        np.testing.assert_allclose(std[name], everything.std(0), rtol=std_error)


def test_moments_do_not_depend_on_how_the_data_is_split():
    """One batch of everything, one example at a time, or the data as it came: the same."""
    data = batches()[:2]
    everything = jax.tree.map(lambda *x: np.concatenate(x), *data)
    single = [jax.tree.map(lambda x, i=i: x[i : i + 1], everything) for i in range(8)]
    expected = after([everything])
    for moments in (after(data), after(single)):
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), moments, expected)


def test_normalized_data_has_mean_zero_and_deviation_one():
    """What the statistics have seen comes out standardised, element by element."""
    data = batches(50.0)[4]
    normal = after([data]).normalize(data)
    for x in jax.tree.leaves(normal):
        np.testing.assert_allclose(np.mean(x, axis=(0, 1)), 0.0, atol=1e-4)
        np.testing.assert_allclose(np.std(x, axis=(0, 1)), 1.0, rtol=1e-4)


def test_nothing_seen_normalises_to_the_same():
    """Before any data `normalize` changes nothing (within its limit of 10)."""
    x = {"a": jnp.array([[-9.5, 0.0], [0.3, 10.0]]), "b": jnp.array([1.0, -2.0])}
    moments = Moments.like(jax.tree.map(lambda x: x[0], x))
    jax.tree.map(np.testing.assert_array_equal, moments.normalize(x), x)


def test_normalized_data_is_clipped():
    """At +-10 or at the limit asked for; a feature that never varied does not divide by zero."""
    moments = after([np.array([[5.0, 2.0]] * 8 + [[7.0, 2.0]] * 8, np.float32)])
    x = jnp.array([[1e6, 3.0], [-1e6, 1.0], [6.0, 2.0]])
    np.testing.assert_array_equal(moments.normalize(x), [[10, 10], [-10, -10], [0, 0]])
    np.testing.assert_array_equal(moments.normalize(x, 2.5), [[2.5, 2.5], [-2.5, -2.5], [0, 0]])


def test_vmapped_seeds_keep_their_own_statistics():
    """Each of three seeds gets what it would have got alone; none sees another's data."""
    rng = np.random.default_rng(1)
    offset = np.array([0.0, 100.0, -5.0])[:, None, None]
    first, second = (offset + rng.normal(size=(2, 3, 20, 4))).astype(np.float32)

    def run(first, second):
        return Moments.like(first[0]).include(first).include(second)

    together = jax.jit(jax.vmap(run))(first, second)
    np.testing.assert_array_equal(together.total, [40, 40, 40])
    for seed in range(3):
        alone = np.concatenate([first[seed], second[seed]])
        np.testing.assert_allclose(together.mean[seed], alone.mean(0), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(jax.vmap(Moments.std)(together)[seed], alone.std(0), rtol=1e-4)


def test_nothing_to_normalise():
    """Statistics of no arrays, as observations without floats have, take in batches as well."""
    assert Moments.like([]).include([]).normalize([]) == []


def rewards(rng, steps, gamma, envs=3):
    """Rewards, ends and discounts ``[T, N]``; one environment ends at every step, one never."""
    ends = rng.random((steps, envs)) < np.linspace(0, 1, envs)
    discount = gamma ** rng.integers(1, 4, (steps, envs)).astype(np.float32)
    return rng.normal(1.0, 2.0, (steps, envs)).astype(np.float32), ends, discount


@pytest.mark.parametrize("gamma", [0.0, 0.99, 1.0])
def test_reward_scale_matches_the_loop(gamma):
    """Over two updates rewards are divided by the deviation of all returns so far."""
    rng = np.random.default_rng(2)
    first, second = rewards(rng, 16, gamma), rewards(rng, 16, gamma)
    scaled, scale = apply(RewardScale.zero(3), *first)
    np.testing.assert_allclose(scaled, reference.scaled_rewards(*first), rtol=1e-4)
    # The returns of episodes that go on are carried over, with the statistics.
    scaled, scale = apply(scale, *second)
    expected = reference.scaled_rewards(*second, before=[first])
    np.testing.assert_allclose(scaled, expected, rtol=1e-4)
    assert scale.moments.total == 96


def test_discounted_returns_restart_at_ends():
    """By hand: rewards of 1 at gamma 0.5 run 1, 1.5, 1.75, and from 1 again after an end."""
    ones = jnp.ones((4, 2))
    ends = jnp.array([[False, False], [False, True], [False, False], [False, True]])
    _, scale = RewardScale.zero(2).apply(ones, ends, ones / 2)
    np.testing.assert_array_equal(scale.returns, [1.875 / 2, 0.0])
    history = [1, 1.5, 1.75, 1.875, 1, 1.5, 1, 1.5]
    np.testing.assert_allclose(scale.moments.mean, np.mean(history), rtol=1e-6)
    np.testing.assert_allclose(scale.moments.std(), np.std(history), rtol=1e-6)


def test_scaling_does_not_shift_rewards():
    """Signs and zeros stay: rewards are divided by one positive number."""
    r_t, ends, discount = rewards(np.random.default_rng(3), 16, 0.9)
    r_t[3] = 0.0
    scaled, _ = RewardScale.zero(3).apply(r_t, ends, discount)
    np.testing.assert_array_equal(np.sign(scaled), np.sign(r_t))
    ratio = np.asarray(scaled)[r_t != 0] / r_t[r_t != 0]
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-6)


def test_constant_rewards_are_not_blown_up():
    """One-step episodes that all pay 1 have no deviation to divide by: rewards stay of order 1."""
    ones = jnp.ones((8, 4))
    scaled, _ = RewardScale.zero(4).apply(ones, ones > 0, 0.99 * ones)
    assert np.all((scaled > 0) & (scaled <= 10))


def test_standardize_some():
    """Over the entries that count, as over them alone."""
    rng = np.random.default_rng(4)
    x, where = rng.normal(3, 2, (6, 5)).astype(np.float32), rng.random((6, 5)) < 0.5
    got = standardize(x, where)[where]
    np.testing.assert_allclose(got, standardize(x[where]), rtol=1e-5, atol=1e-6)
