"""Losses and their gradients against float64 loops, finite differences and rlax."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rlax
from hypothesis import given
from hypothesis import strategies as st

from rlax_lab import losses, shards
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


@given(seeds)
def test_policy_gradient(seed):
    """Minus the mean of log pi times the advantage, and its gradient."""
    log_prob, _, advantage = random_policies(seed)
    check_value_and_gradient(losses.policy_gradient, reference.policy_gradient, log_prob, advantage)


def test_policy_gradient_leaves_the_advantage_alone():
    """No gradient reaches the advantage, though it may come from the network that learns."""
    log_prob, _, advantage = random_policies(0)
    to_both = jax.grad(losses.policy_gradient, argnums=(0, 1))(log_prob, advantage)
    np.testing.assert_allclose(to_both[0], -advantage / SIZE, rtol=1e-6)
    np.testing.assert_array_equal(to_both[1], 0)


@pytest.mark.filterwarnings("ignore:Rlax .* will be deprecated:PendingDeprecationWarning")
def test_rlax_agrees_on_the_policy_gradient():
    """Through a softmax, rlax's loss of logits has the same value and gradient."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(SIZE, 5)).astype(np.float32)
    advantage, action = rng.normal(size=SIZE).astype(np.float32), rng.integers(0, 5, SIZE)

    def ours(logits):
        return losses.policy_gradient(
            jax.nn.log_softmax(logits)[np.arange(SIZE), action], advantage
        )

    def theirs(logits):
        return rlax.policy_gradient_loss(logits, action, advantage, jnp.ones(SIZE))

    for a, b in zip(*(jax.value_and_grad(f)(logits) for f in (ours, theirs)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


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
        (losses.policy_gradient, 2, ()),
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


# --- Huber ---

thresholds = st.sampled_from([0.1, 1.0, 2.5])
fast_huber = jax.jit(jax.vmap(jax.value_and_grad(losses.huber), in_axes=(0, None)))


@given(seeds, thresholds)
def test_huber(seed, threshold):
    """A parabola between the thresholds, lines beyond; its gradient is the clipped error."""
    error = 2 * np.random.default_rng(seed).normal(size=SIZE).astype(np.float32)
    error[:4] = 0, threshold, -threshold, 1e6
    value, gradient = fast_huber(error, threshold)
    expected = [reference.huber(float(e), float(np.float32(threshold))) for e in error]
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    clipped = np.clip(error, -threshold, threshold)
    np.testing.assert_allclose(gradient, clipped, rtol=1e-6, atol=1.2e-7 * threshold)
    np.testing.assert_allclose(value, rlax.huber_loss(error, threshold), rtol=1e-5)


def test_huber_of_an_error_whose_square_is_too_large():
    """Where float32 cannot hold the square, value and gradient are still right."""
    value, gradient = fast_huber(np.float32([1e30, -1e30]), 1.0)
    np.testing.assert_allclose(value, [1e30, 1e30], rtol=1e-6)
    np.testing.assert_array_equal(gradient, [1, -1])


# --- Categorical return distributions ---

project = jax.jit(losses.project_distribution)
supports = st.sampled_from([(-10.0, 10.0), (0.0, 100.0), (-1.0, 0.3)])


def random_distributions(seed, v_min, v_max, atoms=11):
    """Atoms, and probabilities, rewards within the range and discounts of 16 rows."""
    rng = np.random.default_rng(seed)
    support = np.linspace(v_min, v_max, atoms, dtype=np.float32)
    probabilities = rng.dirichlet(np.full(atoms, 0.5), SIZE).astype(np.float32)
    r_t = ((v_max - v_min) * rng.uniform(-0.5, 0.5, SIZE)).astype(np.float32)
    return support, probabilities, r_t, rng.uniform(0, 1, SIZE).astype(np.float32)


@given(seeds, supports)
def test_project_distribution(seed, support):
    """Algorithm 1 of the C51 paper, row by row; some rewards and discounts are extreme."""
    atoms, probabilities, r_t, discount = random_distributions(seed, *support)
    discount[:4] = 0, 1, 0, 1
    r_t[2:6] = 0, 0, 1e4, -1e4
    ours = project(atoms, probabilities, r_t, discount)
    expected = [
        reference.project_distribution(atoms, p, float(r), float(d))
        for p, r, d in zip(probabilities, r_t, discount, strict=True)
    ]
    np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=2e-5)
    np.testing.assert_allclose(np.sum(ours, axis=1), 1, rtol=1e-5)
    assert np.min(ours) >= 0
    moved = r_t[:, None] + discount[:, None] * atoms
    theirs = jax.vmap(rlax.categorical_l2_project, in_axes=(0, 0, None))(
        moved, probabilities, jnp.asarray(atoms)
    )
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=2e-5)


@given(seeds)
def test_projection_keeps_the_mean_unless_it_clips(seed):
    """The mean moves to r + discount mean; where some of it leaves the range, it does not."""
    atoms, probabilities, r_t, discount = random_distributions(seed, -10.0, 10.0)
    r_t *= 1 - discount  # within +-10 (1 - discount): nothing leaves
    means = r_t + discount * (probabilities @ atoms)
    np.testing.assert_allclose(
        project(atoms, probabilities, r_t, discount) @ atoms, means, rtol=1e-4, atol=1e-4
    )
    clipped = project(atoms, probabilities, r_t + 20, discount) @ atoms
    assert np.all(clipped < means + 20)


def test_projection_by_hand():
    """On atoms 0 to 4: a shift by one or a half, a terminal reward, and a reward off either end."""
    atoms, start = jnp.arange(5.0), jnp.float32([[0, 0.5, 0.25, 0.25, 0]])
    for r, discount, expected in [
        (0, 1, [0, 0.5, 0.25, 0.25, 0]),
        (1, 1, [0, 0, 0.5, 0.25, 0.25]),
        (0.5, 1, [0, 0.25, 0.375, 0.25, 0.125]),
        (2, 1, [0, 0, 0, 0.5, 0.5]),
        (3, 0, [0, 0, 0, 1, 0]),
        (2.25, 0, [0, 0, 0.75, 0.25, 0]),
        (0, 0.5, [0.25, 0.625, 0.125, 0, 0]),
        (9, 1, [0, 0, 0, 0, 1]),
        (-9, 1, [1, 0, 0, 0, 0]),
    ]:
        ours = project(atoms, start, jnp.float32([r]), jnp.float32([discount]))
        np.testing.assert_array_equal(ours, [expected])


# --- Quantiles ---


@jax.jit
def fast_quantile_huber(quantiles, target, threshold):
    gradient = jax.grad(lambda q: jnp.sum(losses.quantile_huber(q, target, threshold)))
    return losses.quantile_huber(quantiles, target, threshold), gradient(quantiles)


@given(seeds, thresholds)
def test_quantile_huber(seed, threshold):
    """Equation 10 of the QR-DQN paper and its gradient, for 5 quantiles and 7 targets."""
    rng = np.random.default_rng(seed)
    quantiles, target = (rng.normal(size=(3, n)).astype(np.float32) for n in (5, 7))
    value, gradient = fast_quantile_huber(quantiles, target, threshold)
    threshold = float(np.float32(threshold))
    theirs = jax.vmap(rlax.quantile_regression_loss, in_axes=(0, None, 0, None))
    midpoints = jnp.float32([0.1, 0.3, 0.5, 0.7, 0.9])
    # Theirs is not divided by the threshold, ours is as in the paper.
    np.testing.assert_allclose(
        value * threshold, theirs(quantiles, midpoints, target, threshold), **TOLERANCE
    )
    for i in range(3):
        np.testing.assert_allclose(
            value[i], reference.quantile_huber(quantiles[i], target[i], threshold), **TOLERANCE
        )
        differences = reference.gradient(
            lambda q, y=target[i]: reference.quantile_huber(q, y, threshold), quantiles[i]
        )
        np.testing.assert_allclose(gradient[i], differences, rtol=1e-4, atol=1e-5)


def test_the_quantiles_minimise_their_loss():
    """With a small threshold, at the quantiles of skewed samples the loss is least, on each axis.

    The samples are those at the midpoints, five to a quantile, so the quantiles are every fifth.
    """
    target = np.sort(np.random.default_rng(0).exponential(size=25)).astype(np.float32)
    best = target[2::5]
    loss = jax.jit(lambda q: losses.quantile_huber(q[None], target[None], 1e-3)[0])
    least = loss(best)
    for i in range(5):
        for step in (-0.05, 0.05):
            assert loss(best + step * np.eye(5, dtype=np.float32)[i]) > least
    assert loss(best[::-1]) > least  # the lowest output is the lowest quantile


@given(seeds, st.sampled_from([0.0, 0.3, 1.0]))
def test_a_mean_over_some_is_that_of_them_alone(seed, part):
    """Entries that do not count change neither a loss nor its gradient."""
    where = np.random.default_rng(seed).random(SIZE) < part
    policies, values = random_policies(seed), random_values(seed)
    for loss, arguments in (
        (partial(losses.clipped_surrogate, clip_range=0.2), policies),
        (losses.surrogate, policies),
        (losses.approximate_kl, policies[:2]),
        (losses.squared_error, values[:2]),
        (partial(losses.clipped_squared_error, clip_range=0.5), values),
    ):
        weight = shards.weights(jnp.asarray(where))
        got, gradient = jax.value_and_grad(loss)(*arguments, weight=weight)
        assert not gradient[~where].any()
        if where.any():
            want, some = jax.value_and_grad(loss)(*(x[where] for x in arguments))
            np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
            np.testing.assert_allclose(gradient[where], some, rtol=1e-5, atol=1e-6)
        else:
            assert got == 0
