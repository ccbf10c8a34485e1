"""Returns and advantages against float64 loops, closed forms and rlax."""

import itertools

import hypothesis.extra.numpy as hnp
import jax
import numpy as np
import pytest
import rlax
from hypothesis import given
from hypothesis import strategies as st

from rlax_lab.returns import decision_gae, gae, lambda_returns, n_step
from tests import reference

fast_gae, fast_lambda_returns = jax.jit(gae), jax.jit(lambda_returns)
fast_decision_gae = jax.jit(decision_gae)
fast_n_step = jax.jit(n_step, static_argnames="n")

# float32 against float64, for sums of up to a dozen numbers of order 1.
TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}

zero_to_one = st.sampled_from([0.0, 1.0]) | st.floats(0, 1, width=32)


def trajectory(rng, terminated, truncated, gamma, semi_markov=False):
    """Random rewards and values ``[T, N]``; where an episode ended, `v_t` is of another state."""
    shape = terminated.shape
    r_t, v_tm1, final = rng.normal(size=(3, *shape)).astype(np.float32)
    ends = terminated | truncated
    v_t = np.where(ends, final, np.roll(v_tm1, -1, axis=0))
    v_t[-1] = final[-1]
    elapsed = rng.integers(1, 4, shape) if semi_markov else 1
    discount = np.where(terminated, 0.0, gamma**elapsed).astype(np.float32)
    return r_t, discount, v_tm1, v_t, ends


@st.composite
def trajectories(draw):
    shape = draw(st.sampled_from([(1, 1), (2, 3), (5, 2), (12, 3)]))
    terminated = draw(hnp.arrays(bool, shape))
    truncated = draw(hnp.arrays(bool, shape)) & ~terminated
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return trajectory(rng, terminated, truncated, draw(zero_to_one), draw(st.booleans()))


def every_pattern(length):
    """All ways in which `length` steps can go on, terminate or be truncated, side by side."""
    kinds = np.array(list(itertools.product(range(3), repeat=length))).T
    return kinds == 1, kinds == 2


@given(trajectories(), zero_to_one)
def test_gae_matches_the_recursion(case, lambda_):
    """Random episodes, discounts and lambdas give the advantages of the float64 loop."""
    np.testing.assert_allclose(fast_gae(*case, lambda_), reference.gae(*case, lambda_), **TOLERANCE)


@given(trajectories(), zero_to_one, st.integers(1, 3), st.integers(0, 2**32 - 1))
def test_decision_gae_matches_the_sequences(case, lambda_, agents, seed):
    """Each agent's advantages are those of the sequence of its own decisions."""
    r_t, discount, _, _, ends = case
    rng = np.random.default_rng(seed)
    v_tm1, v_t = rng.normal(size=(2, *r_t.shape, agents)).astype(np.float32)
    acts = rng.random((*r_t.shape, agents)) < rng.choice([0.2, 0.5, 1.0])
    case = r_t, discount, v_tm1, v_t, ends, acts, lambda_
    np.testing.assert_allclose(fast_decision_gae(*case), reference.decision_gae(*case), **TOLERANCE)


@given(trajectories(), zero_to_one)
def test_decision_gae_of_agents_that_always_act_is_gae(case, lambda_):
    """One agent that decides at every step has the advantages of a single learner."""
    r_t, discount, v_tm1, v_t, ends = case
    acts = np.ones((*r_t.shape, 1), bool)
    got = fast_decision_gae(r_t, discount, v_tm1[..., None], v_t[..., None], ends, acts, lambda_)
    np.testing.assert_allclose(got[..., 0], fast_gae(*case, lambda_), **TOLERANCE)


@given(trajectories(), zero_to_one)
def test_lambda_returns_match_the_recursion(case, lambda_):
    """Random episodes, discounts and lambdas give the returns of the float64 loop."""
    r_t, discount, _, v_t, ends = case
    np.testing.assert_allclose(
        fast_lambda_returns(r_t, discount, v_t, ends, lambda_),
        reference.lambda_returns(r_t, discount, v_t, ends, lambda_),
        **TOLERANCE,
    )


@given(trajectories(), zero_to_one)
def test_the_references_match_the_definitions(case, lambda_):
    """The float64 recursions equal the sum of TD errors and the mixture of n-step returns."""
    r_t, discount, _, v_t, ends = case
    advantage = reference.gae(*case, lambda_)
    returns = reference.lambda_returns(r_t, discount, v_t, ends, lambda_)
    tight = {"rtol": 1e-12, "atol": 1e-12}
    np.testing.assert_allclose(advantage, reference.gae_as_sum(*case, lambda_), **tight)
    np.testing.assert_allclose(
        returns, reference.lambda_returns_as_mixture(r_t, discount, v_t, ends, lambda_), **tight
    )


@pytest.mark.parametrize("gamma", [0.0, 0.9, 1.0])
@pytest.mark.parametrize("lambda_", [0.0, 0.7, 1.0])
def test_every_pattern_of_four_steps(gamma, lambda_):
    """Each of the 81 ways to end episodes within four steps matches the definitions."""
    case = trajectory(np.random.default_rng(0), *every_pattern(4), gamma)
    r_t, discount, _, v_t, ends = case
    np.testing.assert_allclose(
        fast_gae(*case, lambda_), reference.gae_as_sum(*case, lambda_), **TOLERANCE
    )
    np.testing.assert_allclose(
        fast_lambda_returns(r_t, discount, v_t, ends, lambda_),
        reference.lambda_returns_as_mixture(r_t, discount, v_t, ends, lambda_),
        **TOLERANCE,
    )


def test_advantages_and_values_add_up_to_returns():
    """GAE plus the values acted on is the lambda-return, where successors' values are those."""
    no = np.zeros((12, 3), bool)
    r_t, discount, v_tm1, v_t, ends = trajectory(np.random.default_rng(1), no, no, 0.99)
    np.testing.assert_allclose(
        gae(r_t, discount, v_tm1, v_t, ends, 0.9) + v_tm1,
        lambda_returns(r_t, discount, v_t, ends, 0.9),
        **TOLERANCE,
    )


def test_lambda_one_is_monte_carlo():
    """With lambda 1 the return is the discounted rewards and one bootstrap where they stop."""
    r_t, discount, _, v_t, ends = trajectory(np.random.default_rng(2), *every_pattern(4), 0.9)
    np.testing.assert_allclose(
        lambda_returns(r_t, discount, v_t, ends, 1.0),
        reference.monte_carlo(r_t, discount, v_t, ends),
        **TOLERANCE,
    )


def test_a_truncated_step_bootstraps_and_a_terminated_one_does_not():
    """By hand: reward 1, gamma 0.5, final value 8 gives 5 when cut by a limit, 1 when over."""
    r_t, v_t = np.ones((1, 2), np.float32), np.full((1, 2), 8, np.float32)
    discount = np.array([[0.5, 0.0]], np.float32)
    returns = lambda_returns(r_t, discount, v_t, np.ones((1, 2), bool), 0.95)
    np.testing.assert_array_equal(returns, [[5, 1]])


@pytest.mark.parametrize("kind", ["terminated", "truncated"])
@pytest.mark.parametrize("at", range(5))
def test_nothing_leaks_across_an_end(kind, at):
    """What comes after an end changes no bit up to it, and without the end it changes all."""
    rng = np.random.default_rng(3)
    yes, no = np.zeros((6, 2), bool), np.zeros((6, 2), bool)
    yes[at] = True
    masks = (yes, no) if kind == "terminated" else (no, yes)
    case = trajectory(rng, *masks, 0.99)
    perturbed = [x.copy() for x in case]
    for x in perturbed[:4]:
        x[at + 1 :] = rng.uniform(1e3, 1e6, x[at + 1 :].shape)

    def estimates(r_t, discount, v_tm1, v_t, ends):
        return np.stack(
            [
                fast_gae(r_t, discount, v_tm1, v_t, ends, 0.95),
                fast_lambda_returns(r_t, discount, v_t, ends, 0.95),
            ]
        )[:, : at + 1]

    np.testing.assert_array_equal(estimates(*case), estimates(*perturbed))
    no_end = [no, np.full_like(case[1], 0.99)]
    before = estimates(case[0], no_end[1], *case[2:4], no)
    after = estimates(perturbed[0], no_end[1], *perturbed[2:4], no)
    assert np.all(before != after)


def test_environments_do_not_mix():
    """Changing one environment's column leaves every other column's bits alone."""
    rng = np.random.default_rng(4)
    no = np.zeros((6, 3), bool)
    case = trajectory(rng, no, no, 0.99)
    perturbed = [x.copy() for x in case]
    for x in perturbed[:4]:
        x[:, 1] = rng.uniform(size=6)
    same = np.asarray(fast_gae(*case, 0.95)) == np.asarray(fast_gae(*perturbed, 0.95))
    np.testing.assert_array_equal(same.all(axis=0), [True, False, True])


@pytest.mark.parametrize("lambda_", [0.0, 0.8, 1.0])
def test_rlax_agrees(lambda_):
    """rlax gives the same where it applies: terminations, but no truncation within the batch."""
    rng = np.random.default_rng(5)
    terminated = rng.random((9, 4)) < 0.2
    r_t, discount, v_tm1, v_t, ends = trajectory(rng, terminated, np.zeros((9, 4), bool), 0.97)
    values = np.concatenate([v_tm1, v_t[-1:]])
    # A terminated step's successor has no value in ours and is multiplied by zero in rlax's.
    theirs = jax.vmap(
        lambda r, d, v: rlax.truncated_generalized_advantage_estimation(r, d, lambda_, v),
        in_axes=1,
        out_axes=1,
    )(r_t, discount, values)
    np.testing.assert_allclose(gae(r_t, discount, v_tm1, v_t, ends, lambda_), theirs, **TOLERANCE)
    theirs = jax.vmap(lambda r, d, v: rlax.lambda_returns(r, d, v, lambda_), in_axes=1, out_axes=1)(
        r_t, discount, v_t
    )
    np.testing.assert_allclose(
        lambda_returns(r_t, discount, v_t, ends, lambda_), theirs, **TOLERANCE
    )


@pytest.mark.parametrize("shape", [(1, 3), (4, 1), (4,), (5, 3)])
@pytest.mark.parametrize("argument", range(5))
def test_shapes_must_match(shape, argument):
    """An array of another shape is refused, also where it would broadcast."""
    arrays = [np.zeros((4, 3), np.float32)] * 4 + [np.zeros((4, 3), bool)]
    arrays[argument] = np.zeros(shape, arrays[argument].dtype)
    with pytest.raises(AssertionError):
        gae(*arrays, 0.95)
    if argument != 2:
        with pytest.raises(AssertionError):
            lambda_returns(*arrays[:2], *arrays[3:], 0.95)


# --- n_step ---


def check_n_step(case, n):
    """`n_step` gives the sums, weights and last rows of the loop."""
    r_t, discount, _, _, ends = case
    total, weight, last = fast_n_step(r_t, discount, ends, n)
    expected = reference.n_step(r_t, discount, ends, n)
    np.testing.assert_allclose(total, expected[0], **TOLERANCE)
    np.testing.assert_allclose(weight, expected[1], **TOLERANCE)
    np.testing.assert_array_equal(last, expected[2])


@given(trajectories(), st.data())
def test_n_step_matches_the_loop(case, data):
    """Random episodes and discounts, for n of one, a few and all the rows."""
    rows = len(case[0])
    check_n_step(case, data.draw(st.sampled_from(sorted({1, min(3, rows), rows}))))


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_n_step_of_every_pattern_of_four_steps(n):
    """Each of the 81 ways to end episodes within four steps."""
    check_n_step(trajectory(np.random.default_rng(0), *every_pattern(4), 0.9), n)


@pytest.mark.parametrize("n", [1, 3, 4])
def test_n_step_bootstrapped_is_the_monte_carlo_return_of_n_rows(n):
    """With what followed the last row it is the return with lambda 1 of the n rows alone."""
    r_t, discount, _, v_t, ends = trajectory(np.random.default_rng(2), *every_pattern(4), 0.9)
    total, weight, last = fast_n_step(r_t, discount, ends, n)
    ours = total + weight * np.take_along_axis(v_t, np.asarray(last), axis=0)
    for t in range(4 - n + 1):
        rows = [x[t : t + n] for x in (r_t, discount, v_t, ends)]
        np.testing.assert_allclose(ours[t], fast_lambda_returns(*rows, 1.0)[0], **TOLERANCE)
        np.testing.assert_allclose(ours[t], reference.monte_carlo(*rows)[0], **TOLERANCE)


@pytest.mark.parametrize("n", [1, 2, 5, 9])
def test_rlax_agrees_on_n_step_returns(n):
    """rlax gives the same where no episode ends and n rows are left (it shortens the last ones)."""
    no = np.zeros((9, 4), bool)
    r_t, discount, _, v_t, ends = trajectory(np.random.default_rng(5), no, no, 0.97, True)
    total, weight, last = fast_n_step(r_t, discount, ends, n)
    theirs = jax.vmap(
        lambda r, d, v: rlax.n_step_bootstrapped_returns(r, d, v, n), in_axes=1, out_axes=1
    )(r_t, discount, v_t)
    ours = total + weight * np.take_along_axis(v_t, np.asarray(last), axis=0)
    np.testing.assert_allclose(ours, theirs[: 9 - n + 1], **TOLERANCE)


def test_n_step_by_hand():
    """Gamma 1/2, n 3, rewards 1, 2, 4, 8, 16: whole, cut by a limit, and terminated."""
    r_t = np.float32([[1, 2, 4, 8, 16]] * 3).T
    ends = np.zeros((5, 3), bool)
    ends[1, 1:] = True
    discount = np.full((5, 3), 0.5, np.float32)
    discount[1, 2] = 0
    total, weight, last = n_step(r_t, discount, ends, 3)
    np.testing.assert_array_equal(total.T, [[3, 6, 12], [2, 2, 12], [2, 2, 12]])
    np.testing.assert_array_equal(weight.T, np.float32([[1, 1, 1], [2, 4, 1], [0, 0, 1]]) / 8)
    np.testing.assert_array_equal(last.T, [[2, 3, 4], [1, 1, 4], [1, 1, 4]])


@pytest.mark.parametrize("discount_there", [0.0, 0.9])
@pytest.mark.parametrize("at", range(4))
def test_n_step_takes_nothing_from_after_an_end(at, discount_there):
    """What comes after an end changes no bit up to it, and without the end it does."""
    r_t = np.random.default_rng(3).normal(size=(6, 2)).astype(np.float32)
    discount, no = np.full((6, 2), 0.9, np.float32), np.zeros((6, 2), bool)
    row = np.broadcast_to(np.arange(6)[:, None], (6, 2))
    after, end = row > at, row == at
    others = np.where(after, np.float32(1e6), r_t), np.where(after, np.float32(0.3), discount)

    def up_to_it(r_t, discount, ends):
        discount = np.where(ends, np.float32(discount_there), discount)
        return np.stack(fast_n_step(r_t, discount, ends, 3))[:, : at + 1]

    np.testing.assert_array_equal(up_to_it(r_t, discount, end), up_to_it(*others, end))
    changed = up_to_it(r_t, discount, no)[:2] != up_to_it(*others, no)[:2]
    reach_past = np.arange(changed.shape[1]) + 2 > at
    assert np.all(changed[:, reach_past])
    assert not np.any(changed[:, ~reach_past])


@pytest.mark.parametrize("shape", [(1, 3), (4, 1), (4,), (5, 3)])
@pytest.mark.parametrize("argument", range(3))
def test_n_step_shapes_must_match(shape, argument):
    """An array of another shape is refused, also where it would broadcast."""
    arrays = [np.zeros((4, 3), np.float32)] * 2 + [np.zeros((4, 3), bool)]
    arrays[argument] = np.zeros(shape, arrays[argument].dtype)
    with pytest.raises(AssertionError):
        n_step(*arrays, 2)
