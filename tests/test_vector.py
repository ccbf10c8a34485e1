"""Stepping, restarting and checking many environments at once."""

import gymnax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from rlax_lab import vector
from rlax_lab.errors import InputError
from tests import probes

# MNIST needs a download to be built.
NAMES = [name for name in gymnax.registered_envs if name != "MNISTBandit-bsuite"]


@given(mask=st.lists(st.booleans(), min_size=1, max_size=40), block=st.integers(1, 45))
def test_replace_where_replaces_exactly_the_masked_rows(mask, block):
    mask = np.array(mask)
    n = len(mask)
    rows = {"a": np.arange(n), "b": np.ones((n, 2))}

    def make(indices, i):
        return {"a": 100 + indices, "b": jnp.broadcast_to(2.0 + i, (block, 2))}

    out = vector.replace_where(jnp.array(mask), make, jax.tree.map(jnp.array, rows), block)
    np.testing.assert_array_equal(out["a"], np.where(mask, 100 + rows["a"], rows["a"]))
    # The r-th masked row comes from block r // block, so no more blocks are made than needed.
    rank = np.cumsum(mask) - 1
    np.testing.assert_array_equal(out["b"][:, 0], np.where(mask, 2 + rank // block, 1))


def test_replace_where_under_vmap_equals_one_by_one():
    masks = jax.random.bernoulli(jax.random.key(0), jnp.array([[0.0], [0.3], [1.0]]), (3, 50))
    rows = jnp.zeros((3, 50))

    def replace(mask, rows):
        return vector.replace_where(mask, lambda i, k: 1.0 + i.astype(jnp.float32), rows, 4)

    together = jax.vmap(replace)(masks, rows)
    for mask, row, got in zip(masks, rows, together, strict=True):
        np.testing.assert_array_equal(got, replace(mask, row))
        np.testing.assert_array_equal(got, np.where(mask, 1 + np.arange(50), 0))


@pytest.fixture(scope="module")
def cartpole_history():
    """2000 steps of 64 CartPoles with random actions, and the states before each step."""
    env, params = gymnax.make("CartPole-v1")

    def one(state, key):
        act_key, step_key = jax.random.split(key)
        action = jax.random.randint(act_key, (64,), 0, 2)
        after, step = vector.step(env, params, state, action, step_key)
        return after, (state, action, step, after)

    start = vector.reset(env, params, jax.random.key(0), 64)
    keys = jax.random.split(jax.random.key(1), 2000)
    return env, params, jax.device_get(jax.jit(lambda s: jax.lax.scan(one, s, keys)[1])(start))


def test_steps_are_the_environments_own(cartpole_history):
    """Rewards, ends and final observations are what step_env gives, ended or not."""
    env, params, (before, action, step, after) = cartpole_history
    flat = lambda x: x.reshape(-1, *x.shape[2:])  # noqa: E731
    states = jax.tree.map(flat, before.state)
    own = jax.jit(jax.vmap(env.step_env, in_axes=(None, 0, 0, None)))
    observation, state, reward, terminated, _ = own(jax.random.key(0), states, flat(action), params)
    # Another program may round differently.
    np.testing.assert_allclose(flat(step.next_observation), observation, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(flat(step.reward), reward)
    np.testing.assert_array_equal(flat(step.terminated), terminated)
    ended = flat(step.ended)
    assert ended.sum() > 1000
    np.testing.assert_array_equal(
        flat(after.observation)[~ended], flat(step.next_observation)[~ended]
    )
    np.testing.assert_array_equal(flat(after.state.time)[~ended], state.time[~ended])
    np.testing.assert_array_equal(flat(after.state.time)[ended], 0)


def test_restarts_follow_the_environments_own_distribution(cartpole_history):
    """Every restart is a new draw, uniform in +-0.05 as CartPole's reset_env is."""
    _, _, (_, _, step, after) = cartpole_history
    fresh = after.observation[step.ended]
    assert len(np.unique(fresh, axis=0)) == len(fresh)
    for column in fresh.T:
        assert stats.kstest(column, stats.uniform(-0.05, 0.1).cdf).pvalue > 1e-3
    # A pool that hands out the same draws again would repeat them in neighbouring environments.
    assert np.abs(np.corrcoef(fresh.T) - np.eye(4)).max() < 5 / np.sqrt(len(fresh))


def test_episode_sums_match_a_plain_loop(cartpole_history):
    _, _, (_, _, step, _) = cartpole_history
    total, length = np.zeros(64), np.zeros(64, int)
    for t in range(len(step.reward)):
        total, length = total + step.reward[t], length + 1
        np.testing.assert_array_equal(step.episode_return[t], total)
        np.testing.assert_array_equal(step.episode_length[t], length)
        total, length = np.where(step.ended[t], 0, total), np.where(step.ended[t], 0, length)


def test_time_limit_truncates_and_does_not_terminate():
    env = probes.TimeLimit()
    state = vector.reset(env, env.default_params, jax.random.key(0), 3)
    for t in range(1, 11):
        state, step = vector.step(
            env, env.default_params, state, jnp.zeros(3, jnp.int32), jax.random.key(t)
        )
        assert not step.terminated.any()
        assert (step.truncated == (t % 5 == 0)).all()
        np.testing.assert_array_equal(step.next_observation[:, 1], 0)  # final, not reset's
        np.testing.assert_array_equal(state.observation[:, 1], t % 5 == 0)  # reset's


class EndsBothWays(probes.TwoStepDiscount):
    @property
    def default_params(self):
        return probes.Params(max_steps_in_episode=2)


def test_a_termination_at_the_time_limit_is_a_termination():
    env = EndsBothWays()
    state = vector.reset(env, env.default_params, jax.random.key(0), 1)
    for _ in range(2):
        action = jnp.zeros(1, jnp.int32)
        state, step = vector.step(env, env.default_params, state, action, jax.random.key(0))
    assert step.terminated.all()
    assert not step.truncated.any()


@pytest.mark.parametrize("name", NAMES)
def test_every_gymnax_environment_fits(name):
    """It passes the door check, and a batch keeps its shapes and types through a step."""
    env, params = gymnax.make(name)

    def two_steps(key):
        state = vector.reset(env, params, key, 4)
        action = jax.vmap(env.action_space(params).sample)(jax.random.split(key, 4))
        return state, vector.step(env, params, state, action, key)[0]

    with jax.numpy_rank_promotion("allow"):  # Swimmer's own arithmetic needs it
        vector.check_environment(env, params)
        before, after = jax.eval_shape(two_steps, jax.random.key(0))
    assert jax.tree.map(lambda x: (x.shape, x.dtype), before) == jax.tree.map(
        lambda x: (x.shape, x.dtype), after
    )


@pytest.mark.parametrize(
    ("env", "sentence"),
    [
        (probes.WrongShape(), "observation of WrongShape is float32[1] after reset_env but"),
        (probes.DriftingDtype(), "is float32[1] after reset_env but int32[1] after step_env"),
        (probes.VectorReward(), "reward of VectorReward has shape (1,), but must be a scalar."),
    ],
)
def test_broken_environments_are_refused(env, sentence):
    with pytest.raises(InputError) as caught:
        vector.check_environment(env, env.default_params)
    assert sentence in str(caught.value)


def test_event_rank():
    example = {"a": jnp.zeros(3), "b": jnp.zeros(())}
    batch = {"a": jnp.zeros((5, 2, 3)), "b": jnp.zeros((5, 2))}
    assert vector.event_rank(example, batch) == 2
    with pytest.raises(InputError):
        vector.event_rank(example, {"a": jnp.zeros((5, 2, 4)), "b": jnp.zeros((5, 2))})
    with pytest.raises(InputError):
        vector.event_rank(example, {"a": jnp.zeros((5, 2, 3)), "b": jnp.zeros(5)})
