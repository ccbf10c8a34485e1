"""Domain randomisation: every episode has parameters of its own, and keeps them."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from gymnax.environments import spaces
from scipy import stats

from rlax_lab import ppo, vector
from rlax_lab.randomize import Randomized

VALUES = np.array([1.0, 10.0, 100.0], np.float32)


class Params(NamedTuple):
    pays: Any
    limit: Any


class Pays:
    """Pays what its parameters say at each step, until the time limit that they say."""

    def reset_env(self, key: jax.Array, params: Params) -> Any:
        del key
        return params.pays[None], jnp.int32(0)

    def step_env(self, key: jax.Array, state: jax.Array, action: Any, params: Params) -> Any:
        del key, action
        return params.pays[None], state + 1, params.pays, jnp.bool_(False), {}

    def is_truncated(self, state: jax.Array, params: Params) -> jax.Array:
        return state >= params.limit

    def action_space(self, params: Params) -> Any:
        assert jnp.ndim(params.pays) == 0
        return spaces.Discrete(2)

    def observation_space(self, params: Params) -> Any:
        assert jnp.ndim(params.pays) == 0
        return spaces.Box(0, 100, (1,))


def made() -> Randomized:
    return Randomized(Pays(), Params(jnp.asarray(VALUES), jnp.array([2, 3, 4])))


def test_every_episode_has_parameters_of_its_own() -> None:
    """Returns are those of one set of parameters, all sets are as likely, and they change."""
    env = made()
    vector.check_environment(env, env.default_params)
    num_envs, steps = 300, 40
    state = vector.reset(env, env.default_params, jax.random.key(0), num_envs)

    def step(state: Any, key: jax.Array) -> Any:
        return vector.step(env, env.default_params, state, jnp.zeros(num_envs, jnp.int32), key)

    keys = jax.random.split(jax.random.key(1), steps)
    _, seen = jax.jit(lambda state: jax.lax.scan(step, state, keys))(state)
    ended = np.asarray(seen.truncated)
    lengths, returns = (
        np.asarray(seen.episode_length)[ended],
        np.asarray(seen.episode_return)[ended],
    )
    which = lengths - 2
    np.testing.assert_allclose(returns, VALUES[which] * lengths)
    # First episodes: later ones are seen less often the longer they are.
    first = np.asarray(state.observation)[:, 0]
    counts = [int((first == value).sum()) for value in VALUES]
    assert stats.chisquare(counts).pvalue > 1e-4
    changes = [len(set(np.asarray(seen.reward)[:, n])) for n in range(num_envs)]
    assert min(changes) >= 2


def test_learners_take_it() -> None:
    """PPO's values are those of the parameters that an observation tells."""
    config = ppo.Config(
        total_steps=20_000, num_envs=16, num_steps=16, gamma=0.0, gae_lambda=0.0, learning_rate=3e-2
    )
    learner = ppo.make(made(), config)
    state = jax.jit(learner.init)(jax.random.key(0))
    update = jax.jit(lambda s: jax.lax.scan(lambda s, _: learner.update(s), s, length=78)[0])
    state = update(state)
    values = learner.value(state.params, jnp.asarray(VALUES)[:, None])
    np.testing.assert_allclose(values, VALUES, rtol=0.2, atol=1)
