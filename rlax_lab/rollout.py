"""Acting: a policy in N environments for T steps."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rlax_lab import vector
from rlax_lab.gradients import each
from rlax_lab.model import Params
from rlax_lab.policy import Policy
from rlax_lab.returns import decision_gae, gae
from rlax_lab.types import Environment, PyTree


class Trajectory(NamedTuple):
    """T steps of N environments, time-major ``[T, N, ...]``.

    Attributes:
      observation: what was acted on.
      action: the raw actions.
      log_prob: their log-probabilities when they were drawn.
      outputs: the policy's outputs they were drawn from.
      step: what the environments gave back.
    """

    observation: PyTree
    action: jax.Array
    log_prob: jax.Array
    outputs: PyTree
    step: vector.TimeStep


def rollout(
    policy: Policy,
    params: Params,
    env: Environment,
    env_params: Any,
    state: vector.EnvState,
    key: jax.Array,
    num_steps: int,
    plan: jax.Array | None = None,
) -> tuple[vector.EnvState, Trajectory]:
    """Takes `num_steps` steps in every environment of `state` with actions drawn from `policy`.

    With a `plan` ``[num_steps, N]``, its distribution also depends on that.
    """

    def one_step(
        state: vector.EnvState, x: tuple[jax.Array, jax.Array | None]
    ) -> tuple[vector.EnvState, Trajectory]:
        key, planned = x
        act_key, step_key = jax.random.split(key)
        outputs, _ = policy.outputs(params, state.observation)
        guide = () if planned is None else (planned,)
        pi = policy.distribution(outputs, *guide)
        action = pi.sample(act_key)
        next_state, step = vector.step(env, env_params, state, policy.to_action(action), step_key)
        return next_state, Trajectory(state.observation, action, pi.log_prob(action), outputs, step)

    return jax.lax.scan(one_step, state, (jax.random.split(key, num_steps), plan))


def values(policy: Policy, params: Params, observation: PyTree) -> jax.Array:
    """Values of T steps' observations ``[T, N, ...]``: ``[T, N]``, or of several agents
    ``[T, N, A]``."""
    shape = jax.tree.leaves(observation)[0].shape[:2]
    rows = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), observation)
    found = each(lambda rows: policy.value(params, rows), rows)
    return found.reshape(*shape, *found.shape[1:])


def successor_values(
    policy: Policy,
    params: Params,
    trajectory: Trajectory,
    value: jax.Array,
    last_observation: PyTree,
) -> jax.Array:
    """The value of what followed each step ``[T, N]``, or ``[T, N, A]`` of several agents.

    Within an episode that is the next row's value. Where a time limit cut the episode it is the
    value of the *final* observation, which no row holds, and which is only computed for the few
    steps that need it. Where the episode terminated the entry has no meaning.

    Args:
      value: values of ``trajectory.observation``, of that shape.
      last_observation: what the environments show after the last step ``[N, ...]``.
    """
    last = policy.value(params, last_observation)
    following = jnp.concatenate([value[1:], last[None]])
    steps, num_envs = value.shape[:2]
    finals = jax.tree.map(
        lambda x: x.reshape(steps * num_envs, *x.shape[2:]), trajectory.step.next_observation
    )

    def final_values(indices: jax.Array, _: jax.Array) -> jax.Array:
        rows = jax.tree.map(lambda x: x.at[indices].get(mode="clip"), finals)
        return policy.value(params, rows)

    truncated = trajectory.step.truncated.reshape(-1)
    block = max(1, steps * num_envs // 64)
    flat = following.reshape(steps * num_envs, *value.shape[2:])
    return vector.replace_where(truncated, final_values, flat, block).reshape(value.shape)


def advantages(
    trajectory: Trajectory,
    reward: jax.Array,
    value: jax.Array,
    following: jax.Array,
    gamma: float | jax.Array,
    lambda_: float | jax.Array,
    acts: jax.Array | None = None,
) -> jax.Array:
    """Generalised advantage estimates of a trajectory; add `value` for value targets.

    They are ``[T, N]``, or of several agents ``[T, N, A]``, each over its own decisions.

    lambda 1 gives n-step advantages, each from as many rewards as the trajectory and the episode
    have left, and a bootstrap where it is the trajectory or a time limit that ends.

    Args:
      reward: ``trajectory.step.reward``, or what it was scaled to ``[T, N]``.
      value: values of ``trajectory.observation``, as they are.
      following: those after each step, see `successor_values`.
      gamma, lambda_: discount per step, beside that of the time it took; decay of the trace.
      acts: of several agents, which decided at each step ``[T, N, A]`` bool.
    """
    step = trajectory.step
    discount = jnp.where(step.terminated, 0.0, gamma * step.discount)
    if acts is None:
        return gae(reward, discount, value, following, step.ended, lambda_)
    return decision_gae(reward, discount, value, following, step.ended, acts, lambda_)
