"""Directions of descent against float64 loops over many steps."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlax_lab import optimizers
from rlax_lab.types import Counter
from tests import reference

STEPS = 40
EPS = 1e-3

# float32 against float64, for directions of order 1 that remember tens of steps.
TOLERANCE = {"rtol": 2e-4, "atol": 1e-6}

seeds = st.integers(0, 2**32 - 1)
limits = st.sampled_from([0.05, 1.0, None])


def tree(x):
    """Five numbers ``[..., 5]`` as weights of a network: a matrix and a scalar."""
    return {"kernel": x[..., :4].reshape(*x.shape[:-1], 2, 2), "bias": x[..., 4]}


def flat(tree):
    kernel = tree["kernel"]
    return np.column_stack([kernel.reshape(len(kernel), 4), tree["bias"]])


def random_gradients(seed):
    """Forty gradients of five numbers, in size from a hundredth of the root of EPS to far above."""
    rng = np.random.default_rng(seed)
    sizes = np.sqrt(EPS) * 10.0 ** rng.uniform(-2, 2, (STEPS, 1))
    return (sizes * rng.normal(size=(STEPS, 5))).astype(np.float32)


@functools.cache
def directions_of(make):
    """``(gradients, clip, *rest) -> directions [STEPS, 5]`` of `make(*rest, clip)`, compiled."""

    @jax.jit
    def run(gradients, *arguments):
        optimizer = make(*arguments)

        def step(state, gradient):
            direction, state = optimizer.update(gradient, state)
            return state, direction

        start = optimizer.init(jax.tree.map(lambda x: x[0], gradients))
        return jax.lax.scan(step, start, gradients)[1]

    return lambda gradients, *arguments: flat(run(tree(gradients), *arguments))


def clipped(gradients, limit):
    return gradients if limit is None else reference.clip_by_norm(gradients, limit)


@given(seeds, st.sampled_from([0.0, 0.9, 0.99]), limits)
def test_rmsprop(seed, decay, limit):
    """Equation 8 of the A3C paper: a mean of squares from 0 on, epsilon under the root."""
    gradients = random_gradients(seed)
    ours = directions_of(optimizers.rmsprop)(gradients, decay, EPS, limit)
    expected = reference.rmsprop(clipped(gradients, limit), decay, EPS)
    np.testing.assert_allclose(ours, expected, **TOLERANCE)


@given(seeds, st.sampled_from([1e-8, EPS]), limits)
def test_adam(seed, eps, limit):
    """Algorithm 1 of the Adam paper: both means corrected for their start at 0."""
    gradients = random_gradients(seed)
    ours = directions_of(optimizers.adam)(gradients, eps, limit)
    expected = reference.adam(clipped(gradients, limit), eps)
    np.testing.assert_allclose(ours, expected, **TOLERANCE)


def test_rmsprop_is_told_from_its_variants():
    """Epsilon outside the root, the mean of squares from 1 on, and centring all differ by far."""
    gradients = random_gradients(0)
    ours = directions_of(optimizers.rmsprop)(gradients, 0.9, EPS, None)
    for variant in (
        optax.scale_by_rms(0.9, EPS, eps_in_sqrt=False),
        optax.scale_by_rms(0.9, np.sqrt(EPS), eps_in_sqrt=False),
        optax.scale_by_rms(0.9, EPS, initial_scale=1.0),
        optax.scale_by_stddev(0.9, EPS),
    ):
        state, furthest = variant.init(jnp.zeros(5)), 0.0
        for gradient, direction in zip(gradients, ours, strict=True):
            other, state = variant.update(gradient, state)
            furthest = max(furthest, np.max(np.abs(other - direction)))
        assert furthest > 0.1


def test_rmsprop_by_hand():
    """Decay 1/2, epsilon 1: gradients 4 and 0 have 8 and 4 for mean squares, so 4/3 and 0."""
    ours = directions_of(optimizers.rmsprop)(np.float32([[4] * 5, [0] * 5]), 0.5, 1.0, None)
    np.testing.assert_allclose(ours, [[4 / 3] * 5, [0] * 5], rtol=1e-6)


@pytest.mark.parametrize("make", [optimizers.adam, optimizers.rmsprop])
def test_clipping_is_by_the_norm_of_all_gradients_together(make):
    """It keeps the proportions, within and between arrays, and leaves short gradients alone."""
    gradient = jax.tree.map(jnp.asarray, tree(np.float32([3, 0, 0, 0, 4])))
    for limit, scale in ((1.0, 1 / 5), (2.5, 1 / 2), (5.1, 1.0), (None, 1.0)):
        # So large an epsilon that directions are in proportion to gradients.
        optimizer = make(*([0.0] if make is optimizers.rmsprop else []), 1e12, limit)
        direction, _ = optimizer.update(gradient, optimizer.init(gradient))
        root = 1e6 if make is optimizers.rmsprop else 1e12
        np.testing.assert_allclose(direction["kernel"] * root, [[3 * scale, 0], [0, 0]], rtol=1e-5)
        np.testing.assert_allclose(direction["bias"] * root, 4 * scale, rtol=1e-5)


def test_norm():
    """Of all arrays of a gradient together, as that which clipping goes by."""
    assert optimizers.norm(tree(np.float32([3, 0, 0, 0, 4]))) == pytest.approx(5.0)
    values = np.random.default_rng(0).normal(size=5)
    expected = np.sqrt(np.sum(np.square(values)))
    assert optimizers.norm(tree(np.float32(values))) == pytest.approx(expected)


def test_descend():
    """Weights less the rate times the direction, in every array."""
    weights, direction = tree(np.float32([1, 2, 3, 4, 5])), tree(np.float32([1, 0, -2, 8, 4]))
    ours = optimizers.descend(weights, direction, 0.25)
    np.testing.assert_array_equal(ours["kernel"], [[0.75, 2], [3.5, 2]])
    np.testing.assert_array_equal(ours["bias"], 4)


@pytest.mark.parametrize("total", [8, 1000, 2**40])
def test_remaining(total):
    """From 1 at the start by equal steps to 0 at the end, and 0 ever after."""
    for part, expected in ((0, 1), (1, 0.75), (2, 0.5), (4, 0), (5, 0), (100, 0)):
        steps = part * total // 4
        counter = Counter(jnp.uint32(steps >> 32), jnp.uint32(steps & 0xFFFFFFFF))
        np.testing.assert_allclose(optimizers.remaining(counter, total), expected, rtol=1e-6)
