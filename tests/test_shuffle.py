"""The shuffle is a bijection, and as uniform as jax.random.permutation by the same tests."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from rlax_lab import shuffle
from rlax_lab.shuffle import permutation

KEYS = 8000
# For each statistic: the chance that a uniform shuffle fails it (over all of its p-values), with
# keys that are fixed, so that it is taken once.
ALPHA = 1e-4


def half_turn(key, n):
    """A bad shuffle: a rotation by less than half of the length."""
    return jnp.roll(jnp.arange(n), jax.random.randint(key, (), 0, n // 2))


def one_round(key, n):
    """A bad shuffle: our own with one round instead of eight."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shuffle, "_ROUNDS", 1)
        return permutation(key, n)


@functools.cache
def orders(shuffler, n):
    """KEYS orders ``[KEYS, n]``."""
    keys = jax.random.split(jax.random.key(0), KEYS)
    return np.asarray(jax.jit(jax.vmap(lambda key: shuffler(key, n)))(keys))


def positions(order):
    """Chi-square of where each of some elements comes to lie, and of what lies at some places."""
    n = order.shape[1]
    for place in (0, 1, 17, n // 2, n - 1):
        yield stats.chisquare(np.bincount(order[:, place], minlength=n)).pvalue
        found = np.nonzero(order == place)[1]
        yield stats.chisquare(np.bincount(found, minlength=n)).pvalue


def minibatches(order):
    """Binomial test of how often pairs of elements, near and far, share a minibatch."""
    n = order.shape[1]
    size = n // 4
    minibatch = np.argsort(order, axis=1) // size
    for i, j in [(0, 1), (0, 16), (0, 17), (0, n - 1), (40, 41), (40, 57), (40, 58), (100, 200)]:
        together = int(np.sum(minibatch[:, i] == minibatch[:, j]))
        yield stats.binomtest(together, KEYS, (size - 1) / (n - 1)).pvalue


def fixed_points(order):
    """Chi-square of the number of fixed points against Poisson(1)."""
    number = np.sum(order == np.arange(order.shape[1]), axis=1)
    expected = stats.poisson.pmf(np.arange(5), 1)
    expected = np.append(expected, 1 - expected.sum())
    counts = np.bincount(np.minimum(number, 5), minlength=6)
    yield stats.chisquare(counts, KEYS * expected).pvalue


def serial_correlation(order):
    """Mean and variance of the correlation of neighbours, against a uniform shuffle's."""
    n = order.shape[1]
    x = order - (n - 1) / 2
    s2, s4 = np.sum(x[0] ** 2), np.sum(x[0] ** 4)
    statistic = np.sum(x * np.roll(x, 1, axis=1), axis=1)
    # Wald and Wolfowitz (1943), section 4, for numbers whose sum and sum of cubes are zero.
    mean = -s2 / (n - 1)
    variance = (s2**2 - s4) / (n - 1) - mean**2 + (s2**2 - 2 * s4) / ((n - 1) * (n - 2))
    z = (statistic - mean) / np.sqrt(variance)
    yield 2 * stats.norm.sf(abs(np.sum(z)) / np.sqrt(KEYS))
    yield 2 * stats.norm.sf(abs(np.sum(z**2 - 1)) / np.sqrt(2 * KEYS))


STATISTICS = [positions, minibatches, fixed_points, serial_correlation]


def passes(statistic, order):
    pvalues = list(statistic(order))
    return min(pvalues) > ALPHA / len(pvalues)


# Halves of 16 * 16, 14 * 22 and 5 * 61; and 307, a prime, of whose 18 * 18 pairs 17 walk on.
@pytest.mark.parametrize("n", [256, 308, 305, 307])
@pytest.mark.parametrize("statistic", STATISTICS)
@pytest.mark.parametrize("shuffler", [permutation, jax.random.permutation])
def test_orders_are_uniform(shuffler, statistic, n):
    """Over 8000 keys each statistic is that of uniform orders, as it is for JAX's own shuffle."""
    assert passes(statistic, orders(shuffler, n))


@pytest.mark.parametrize("statistic", STATISTICS)
def test_a_rotation_is_not_uniform(statistic):
    """Each statistic can fail: it does for random rotations."""
    assert not passes(statistic, orders(half_turn, 308))


def test_one_round_is_not_enough():
    """The statistics are sharp enough to tell our own shuffle with too few rounds."""
    assert not all(passes(statistic, orders(one_round, 256)) for statistic in STATISTICS)


SIZES = [1, 2, 3, 7, 64, 127, 255, 256, 257, 263, 272, 273, 289, 300, 308]


@pytest.mark.parametrize("n", [*SIZES, 1000, 4096, 4097, 65536, 65537, 262144])
def test_every_index_comes_up_once(n):
    """For squares, primes, powers of two and their neighbours: int32, 0 to n - 1, once each."""
    order = jax.jit(permutation, static_argnums=1)(jax.random.key(n), n)
    assert (order.shape, order.dtype) == ((n,), jnp.int32)
    np.testing.assert_array_equal(np.sort(order), np.arange(n))


@pytest.mark.parametrize("n", [100, 308])
def test_every_order_is_a_bijection(n):
    """Also for keys under vmap, whose cycles are walked together."""
    many = orders(permutation, n)[:1000]
    np.testing.assert_array_equal(np.sort(many, axis=1), np.tile(np.arange(n), (1000, 1)))


@pytest.mark.parametrize("n", [100, 308])
def test_the_order_depends_on_the_key_alone(n):
    """The same key gives the same order, alone or under vmap; different keys give others."""
    many = orders(permutation, n)
    keys = jax.random.split(jax.random.key(0), KEYS)
    np.testing.assert_array_equal(permutation(keys[5], n), many[5])
    assert len(np.unique(many, axis=0)) == KEYS
