"""Losses and their gradients against float64 loops, finite differences and rlax."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rlax
from hypothesis import given
from hypothesis import strategies as st

from rlax_lab import losses
from tests import reference

SIZE = 16
seeds = st.integers(0, 2**32 - 1)
clip_ranges = st.sampled_from([1e-3, 0.1, 0.2, 0.5, 2.0])

# float32 against float64, for means of numbers of order 1.
TOLERANCE = {"rtol": 1e-5, "atol": 1e-6}


def random_policies(seed):
    """New and old log-probabilities (ratios of 0.05 to 20) and advantages of both signs [16]."""
    rng = np.random.default_rng(seed)
    old = rng.uniform(-5, 1, SIZE).astype(np.float32)
    new = (old + rng.uniform(-3, 3, SIZE)).astype(np.float32)
    return new, old, rng.normal(size=SIZE).astype(np.float32)


def random_values(seed):
    """Values, values before the update and targets [16], as far apart as clip ranges are wide."""
    return tuple(np.random.default_rng(seed).normal(size=(3, SIZE)).astype(np.float32))


def check_value_and_gradient(loss, expected, *arguments):
    """`loss` and its gradient in the first argument agree with `expected` and its differences."""
    value, gradient = jax.jit(jax.value_and_grad(loss))(*arguments)
    np.testing.assert_allclose(value, expected(*arguments), **TOLERANCE)
    differences = reference.gradient(lambda x: expected(x, *arguments[1:]), arguments[0])
    np.testing.assert_allclose(gradient, differences, **TOLERANCE)


@given(seeds, clip_ranges)
def test_clipped_surrogate(seed, clip_range):
    """Equation 7 of the PPO paper and its gradient, at ratios inside and outside the band."""
    check_value_and_gradient(
        losses.clipped_surrogate, reference.clipped_surrogate, *random_policies(seed), clip_range
    )


@given(seeds)
def test_surrogate(seed):
    """Equation 6 of the PPO paper and its gradient."""
    check_value_and_gradient(losses.surrogate, reference.surrogate, *random_policies(seed))


@given(seeds)
def test_approximate_kl(seed):
    """Schulman's third estimator and its gradient."""
    check_value_and_gradient(
        losses.approximate_kl, reference.approximate_kl, *random_policies(seed)[:2]
    )


@given(seeds)
def test_squared_error(seed):
    """Half the mean squared error and its gradient."""
    value, _, target = random_values(seed)
    check_value_and_gradient(losses.squared_error, reference.squared_error, value, target)


@given(seeds, clip_ranges)
def test_clipped_squared_error(seed, clip_range):
    """The larger of two errors and its gradient, with values inside and outside the band."""
    check_value_and_gradient(
        losses.clipped_squared_error,
        reference.clipped_squared_error,
        *random_values(seed),
        clip_range,
    )


def test_rlax_agrees():
    """rlax's clipped surrogate, a function of the ratio, gives the same loss and gradient."""
    new, old, advantage = random_policies(0)

    def theirs(log_prob):
        return rlax.clipped_surrogate_pg_loss(jnp.exp(log_prob - old), advantage, 0.2)

    ours = partial(losses.clipped_surrogate, old_log_prob=old, advantage=advantage, clip_range=0.2)
    for a, b in zip(jax.value_and_grad(ours)(new), jax.value_and_grad(theirs)(new), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


@pytest.mark.parametrize(
    ("log_ratio", "advantage", "gradient"),
    [
        (np.log(1.5), 1.0, 0.0),  # above the band, asked to rise further: stop
        (np.log(0.5), -1.0, 0.0),  # below the band, asked to fall further: stop
        (np.log(1.5), -1.0, 1.5),  # above the band, asked back
        (np.log(0.5), 1.0, -0.5),  # below the band, asked back
        (100.0, 1.0, 0.0),  # a ratio that float32 cannot hold
        (-200.0, -1.0, 0.0),
    ],
)
def test_the_clip_stops_only_what_pushes_outwards(log_ratio, advantage, gradient):
    """Outside the band the gradient is zero where it would lead further out, and whole if not."""
    ours = jax.grad(losses.clipped_surrogate)(
        jnp.float32([log_ratio]), jnp.zeros(1), jnp.float32([advantage]), 0.2
    )
    np.testing.assert_allclose(ours, [gradient], rtol=1e-6)


def test_at_the_old_policy_the_gradients_are_those_of_the_policy_gradient():
    """At a ratio of 1 both surrogates' gradients are minus the advantages over their number."""
    _, old, advantage = random_policies(1)
    for loss in (losses.surrogate, partial(losses.clipped_surrogate, clip_range=0.2)):
        gradient = jax.grad(loss)(old, old, advantage)
        np.testing.assert_allclose(gradient, -advantage / SIZE, rtol=1e-6)


@given(st.floats(-80, 80, width=32), st.integers(-30, 0))
def test_each_kl_sample_is_not_negative(log_ratio, exponent):
    """Also in float32, and for ratios so close to 1 that a naive form would cancel."""
    small = np.float32(log_ratio * 10.0**exponent)
    assert losses.approximate_kl(jnp.float32([small]), jnp.zeros(1)) >= 0


def test_the_kl_estimate_is_unbiased():
    """Over 200,000 draws of the old policy it is within 4 standard errors of KL(old || new)."""
    rng = np.random.default_rng(0)
    old, new = np.array([[0.5, 0.2, 0.15, 0.1, 0.05], [0.1, 0.1, 0.1, 0.2, 0.5]])
    forward, reverse = np.sum(old * np.log(old / new)), np.sum(new * np.log(new / old))
    action = rng.choice(5, size=200_000, p=old)
    log_ratio = np.log(new / old)[action]
    error = np.std(np.expm1(log_ratio) - log_ratio) / np.sqrt(len(action))
    estimate = losses.approximate_kl(
        np.log(new)[action].astype(np.float32), np.log(old)[action].astype(np.float32)
    )
    assert abs(estimate - forward) < 4 * error
    assert abs(estimate - reverse) > 20 * error  # the other direction is told apart


@pytest.mark.parametrize("shape", [(1,), (4, 1), ()])
@pytest.mark.parametrize(
    ("loss", "arrays", "rest"),
    [
        (losses.clipped_surrogate, 3, (0.2,)),
        (losses.surrogate, 3, ()),
        (losses.approximate_kl, 2, ()),
        (losses.squared_error, 2, ()),
        (losses.clipped_squared_error, 3, (0.2,)),
    ],
)
def test_shapes_must_match(loss, arrays, rest, shape):
    """An array of another shape is refused, also where it would broadcast."""
    for i in range(arrays):
        arguments = [np.zeros(shape if i == j else 4, np.float32) for j in range(arrays)]
        with pytest.raises(AssertionError):
            loss(*arguments, *rest)
