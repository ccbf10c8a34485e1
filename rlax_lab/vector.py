"""Many copies of one environment, stepped and reset together.

Works with any environment in gymnax's interface, through `reset_env`, `step_env` and
`is_truncated`. Episodes restart by themselves. A restart is always a fresh draw from the
environment's own `reset_env`, but only environments that ended pay for one: gymnax's own `step`
computes a full reset for every environment at every step.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rlax_lab.errors import InputError
from rlax_lab.types import Environment, PyTree

TIME_DISCOUNT = "time_discount"


class EnvState(NamedTuple):
    """N environments, between two steps.

    Attributes:
      state: the environments' own states ``[N, ...]``.
      observation: what they show now ``[N, ...]``.
      episode_return: undiscounted reward of the running episodes ``[N]``.
      episode_length: steps of the running episodes ``[N]``.
    """

    state: PyTree
    observation: PyTree
    episode_return: jax.Array
    episode_length: jax.Array


class TimeStep(NamedTuple):
    """What one step brought, in each of N environments ``[N, ...]``.

    Attributes:
      reward: float32.
      terminated: the episode ended for good: nothing is left to collect.
      truncated: the episode was cut by its time limit, not terminated.
      discount: what a reward after the step is worth for the time that the step took, beside the
        learner's gamma: ``info["time_discount"]``, or 1 where the environment gives none. (gymnax's
        ``info["discount"]`` tells of terminations, and is not used.)
      next_observation: what followed; the *final* observation where the episode ended.
      episode_return, episode_length: of the episode so far, this step included.
    """

    reward: jax.Array
    terminated: jax.Array
    truncated: jax.Array
    discount: jax.Array
    next_observation: PyTree
    episode_return: jax.Array
    episode_length: jax.Array

    @property
    def ended(self) -> jax.Array:
        """Where the episode ended, for either reason."""
        return self.terminated | self.truncated


def reset(env: Environment, params: Any, key: jax.Array, num_envs: int) -> EnvState:
    """`num_envs` fresh episodes."""
    observation, state = _reset_rows(env, params, jax.random.split(key, num_envs))
    return EnvState(state, observation, jnp.zeros(num_envs), jnp.zeros(num_envs, jnp.int32))


def step(
    env: Environment, params: Any, state: EnvState, action: PyTree, key: jax.Array
) -> tuple[EnvState, TimeStep]:
    """Takes one step in every environment, and restarts those whose episode ended.

    Args:
      env, params: the environment and its parameters.
      state: N environments.
      action: their actions ``[N, ...]``.
      key: for the transitions and the restarts.
    """
    num_envs = state.episode_length.shape[0]
    step_key, reset_key = jax.random.split(key)
    observation, inner, reward, terminated, info = jax.vmap(env.step_env, in_axes=(0, 0, 0, None))(
        jax.random.split(step_key, num_envs), state.state, action, params
    )
    truncated = jax.vmap(env.is_truncated, in_axes=(0, None))(inner, params)
    terminated = terminated.astype(bool)
    observation, inner = _strong(observation), _strong(inner)
    episode_return = state.episode_return + reward.astype(jnp.float32)
    episode_length = state.episode_length + 1
    timestep = TimeStep(
        reward=reward.astype(jnp.float32),
        terminated=terminated,
        truncated=truncated.astype(bool) & ~terminated,
        discount=jnp.asarray(info.get(TIME_DISCOUNT, jnp.ones(num_envs)), jnp.float32),
        next_observation=observation,
        episode_return=episode_return,
        episode_length=episode_length,
    )
    ended = timestep.ended

    block = max(1, num_envs // 32)

    def restart(_: jax.Array, i: jax.Array) -> PyTree:
        keys = jax.random.split(jax.random.fold_in(reset_key, i), block)
        return _reset_rows(env, params, keys)

    observation, inner = replace_where(ended, restart, (observation, inner), block)
    return (
        EnvState(
            inner,
            observation,
            jnp.where(ended, 0.0, episode_return),
            jnp.where(ended, 0, episode_length),
        ),
        timestep,
    )


def replace_where(
    mask: jax.Array,
    make: Callable[[jax.Array, jax.Array], PyTree],
    rows: PyTree,
    block: int,
) -> PyTree:
    """`rows` with those where `mask` holds replaced by new ones, made `block` at a time.

    The cost follows the number of rows replaced, also under ``vmap``, where a ``cond`` or a
    ``where`` would make every row new.

    Args:
      mask: ``[N]`` bool.
      make: ``make(indices [block], i) -> new rows [block, ...]`` for the i-th block; indices
        beyond those needed are N, and what is made for them is dropped.
      rows: a pytree of arrays ``[N, ...]``.
      block: how many to make at a time.
    """
    # The k-th row to replace is where the running count of them first reaches k.
    count = jnp.cumsum(mask.astype(jnp.int32))

    def body(carry: tuple[jax.Array, PyTree]) -> tuple[jax.Array, PyTree]:
        i, rows = carry
        indices = jnp.searchsorted(count, i * block + jnp.arange(1, block + 1))
        new = make(indices, i)
        put = lambda x, y: x.at[indices].set(y, mode="drop")  # noqa: E731
        return i + 1, jax.tree.map(put, rows, new)

    blocks = (count[-1] + block - 1) // block
    return jax.lax.while_loop(lambda carry: carry[0] < blocks, body, (jnp.int32(0), rows))[1]


def _reset_rows(env: Environment, params: Any, keys: jax.Array) -> tuple[PyTree, PyTree]:
    observation, state = jax.vmap(env.reset_env, in_axes=(0, None))(keys, params)
    return _strong(observation), _strong(state)


def _strong(tree: PyTree) -> PyTree:
    """Drops weak types (gymnax resets hold Python numbers), which would recompile loops."""
    return jax.tree.map(lambda x: jax.lax.convert_element_type(x, x.dtype), tree)


def check_environment(env: Environment, params: Any) -> None:
    """Raises InputError, in one sentence, where an environment breaks the interface.

    Nothing runs: shapes and types are traced. What `step_env` returns must look like what
    `reset_env` returned, or the episode could not go on.
    """
    name = getattr(env, "name", type(env).__name__)
    try:
        key = jax.eval_shape(lambda: jax.random.key(0))
        observation, state = jax.eval_shape(env.reset_env, key, params)
        action = jax.eval_shape(env.action_space(params).sample, key)
        stepped = jax.eval_shape(env.step_env, key, state, action, params)
        new_observation, new_state, reward, terminated, info = stepped
        truncated = jax.eval_shape(env.is_truncated, new_state, params)
    except InputError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"the environment {name} cannot be reset and stepped: {type(error).__name__}: {reason}"
        ) from error
    _check_same(f"the observation of {name}", observation, new_observation)
    _check_same(f"the state of {name}", state, new_state)
    scalars = {"reward": reward, "terminated": terminated, "is_truncated": truncated}
    if TIME_DISCOUNT in info:
        scalars[TIME_DISCOUNT] = info[TIME_DISCOUNT]
    for what, x in scalars.items():
        if x.shape != ():
            raise InputError(f"{what} of {name} has shape {x.shape}, but must be a scalar.")
        if what not in ("reward", TIME_DISCOUNT) and x.dtype != bool:
            raise InputError(f"{what} of {name} is {x.dtype}, but must be bool.")


def _check_same(what: str, before: PyTree, after: PyTree) -> None:
    old, new = (jax.tree_util.tree_leaves_with_path(tree) for tree in (before, after))
    structures = [str(jax.tree.structure(tree)) for tree in (before, after)]
    if structures[0] != structures[1]:
        raise InputError(
            f"{what} has the structure {structures[0]} after reset_env but {structures[1]} after "
            "step_env; both must be the same."
        )
    for (path, x), (_, y) in zip(old, new, strict=True):
        if (x.shape, x.dtype) != (y.shape, y.dtype):
            raise InputError(
                f"{what}{jax.tree_util.keystr(path)} is {x.dtype}{list(x.shape)} after reset_env "
                f"but {y.dtype}{list(y.shape)} after step_env; both must be the same."
            )


def event_rank(example: PyTree, batch: PyTree) -> int:
    """How many leading axes `batch` has over `example`, leaf by leaf the same.

    Raises:
      InputError: where shapes do not end as the example's do.
    """
    shapes = [
        (x.shape, y.shape) for x, y in zip(*map(jax.tree.leaves, (example, batch)), strict=True)
    ]
    ranks = {len(y) - len(x) for x, y in shapes}
    if len(ranks) != 1 or any(y[len(y) - len(x) :] != x for x, y in shapes if len(x)):
        raise InputError(
            f"the observation has shapes {[y for _, y in shapes]}, but must end in "
            f"{[x for x, _ in shapes]}."
        )
    return ranks.pop()
