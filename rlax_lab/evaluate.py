"""How good a policy is: whole episodes from fresh starts, each counted once."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rlax_lab import vector
from rlax_lab.types import Environment, Learner, PyTree


class Evaluation(NamedTuple):
    """Returns and lengths of E episodes ``[E]``; `finished` is false where the limit cut one."""

    episode_return: jax.Array
    episode_length: jax.Array
    finished: jax.Array

    def mean_return(self) -> jax.Array:
        """The mean return of the episodes that ended; NaN if none did."""
        total = jnp.sum(jnp.where(self.finished, self.episode_return, 0.0))
        return total / jnp.sum(self.finished)


def evaluate(
    learner: Learner,
    params: PyTree,
    env: Environment,
    key: jax.Array,
    episodes: int = 64,
    env_params: Any = None,
    max_steps: int = 20_000,
) -> Evaluation:
    """Plays `episodes` episodes side by side with the most likely actions.

    Each environment counts its first episode only: counting whatever ends first would favour
    short episodes. An episode still running after `max_steps` steps does not count as finished.

    Args:
      learner: whose `act` plays.
      params: ``state.params``, which carry the statistics that observations are normalised with.
      env, env_params: the environment, which need not be the one trained on.
      key: for starts and transitions.
    """
    env_params = env.default_params if env_params is None else env_params
    reset_key, key = jax.random.split(key)
    zeros = jnp.zeros(episodes)
    start = (
        jnp.int32(0),
        vector.reset(env, env_params, reset_key, episodes),
        Evaluation(zeros, jnp.zeros(episodes, jnp.int32), jnp.zeros(episodes, bool)),
    )

    def goes_on(carry: tuple[jax.Array, vector.EnvState, Evaluation]) -> jax.Array:
        i, _, result = carry
        return (i < max_steps) & ~jnp.all(result.finished)

    def one_step(
        carry: tuple[jax.Array, vector.EnvState, Evaluation],
    ) -> tuple[jax.Array, vector.EnvState, Evaluation]:
        i, state, result = carry
        action = learner.act(params, state.observation)
        state, step = vector.step(env, env_params, state, action, jax.random.fold_in(key, i))
        first = step.ended & ~result.finished
        return (
            i + 1,
            state,
            Evaluation(
                jnp.where(first, step.episode_return, result.episode_return),
                jnp.where(first, step.episode_length, result.episode_length),
                result.finished | first,
            ),
        )

    return jax.lax.while_loop(goes_on, one_step, start)[2]
