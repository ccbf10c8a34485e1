"""Returns and advantages on time-major ``[T, N]`` arrays.

The discount of a step, ``discount_t``, is gamma (or gamma to the elapsed time, in a semi-Markov
process) and zero where the episode terminated. An episode that was cut by a time limit keeps its
discount: its last step bootstraps from the value of the final observation, which the caller puts
into ``v_t``, and ``ends_t`` cuts the trace there so that nothing leaks in from the next episode.
"""

from typing import Any

import chex
import jax
import jax.numpy as jnp


def lambda_returns(
    r_t: jax.Array,
    discount_t: jax.Array,
    v_t: jax.Array,
    ends_t: jax.Array,
    lambda_: float | jax.Array,
) -> jax.Array:
    """TD(lambda) returns: ``G_t = r_t + discount_t * ((1 - lambda) v_t + lambda G_{t+1})``.

    lambda 1 gives Monte-Carlo returns with a bootstrap at the end, lambda 0 one-step targets.
    Source: Sutton and Barto (2018), equation 12.18, with the trace cut where an episode ends.

    Args:
      r_t: rewards ``[T, N]``.
      discount_t: discounts ``[T, N]``, zero where the episode terminated.
      v_t: values of the successors ``[T, N]``: of the final observation where an episode ended.
      ends_t: ``[T, N]`` bool, true where an episode ended for either reason.
      lambda_: the trace's decay, in [0, 1].

    Returns:
      Returns ``[T, N]``.
    """
    chex.assert_equal_shape([r_t, discount_t, v_t, ends_t])
    trace_t = _trace(ends_t, lambda_)
    return _backwards(r_t + discount_t * (1.0 - trace_t) * v_t, discount_t * trace_t)


def gae(
    r_t: jax.Array,
    discount_t: jax.Array,
    v_tm1: jax.Array,
    v_t: jax.Array,
    ends_t: jax.Array,
    lambda_: float | jax.Array,
) -> jax.Array:
    """Generalised advantage estimates: decayed sums of TD errors.

    Source: Schulman et al. (2016), equation 16.

    Args:
      r_t, discount_t, v_t, ends_t, lambda_: as in `lambda_returns`.
      v_tm1: values of the observations acted on ``[T, N]``.

    Returns:
      Advantages ``[T, N]``; add `v_tm1` for the value targets.
    """
    chex.assert_equal_shape([r_t, discount_t, v_tm1, v_t, ends_t])
    return _backwards(r_t + discount_t * v_t - v_tm1, discount_t * _trace(ends_t, lambda_))


def decision_gae(
    r_t: jax.Array,
    discount_t: jax.Array,
    v_tm1: jax.Array,
    v_t: jax.Array,
    ends_t: jax.Array,
    acts_t: jax.Array,
    lambda_: float | jax.Array,
) -> jax.Array:
    """GAE for agents that do not act at every step: of each over its own decisions.

    To an agent, a step is what lies between two of its decisions (Sutton, Precup and Singh 1999):
    its reward is their discounted rewards, its discount the product of theirs. Where every agent
    acts at every step this is `gae`.

    Args:
      r_t, discount_t: rewards and discounts, which all agents share ``[T, N]``.
      v_tm1: values of the observations acted on ``[T, N, A]``.
      v_t: values of the successors ``[T, N, A]``; used where an episode ended, then those of the
        final observation, and in the last row.
      ends_t: ``[T, N]`` bool, true where an episode ended for either reason.
      acts_t: ``[T, N, A]`` bool, which agents decided.
      lambda_: the trace's decay, in [0, 1].

    Returns:
      Advantages ``[T, N, A]``, 0 where an agent did not decide; add `v_tm1` for value targets.
    """
    chex.assert_equal_shape([r_t, discount_t, ends_t])
    chex.assert_equal_shape([v_tm1, v_t, acts_t])
    cut = ends_t.at[-1].set(True)

    def row(ahead: tuple[jax.Array, ...], x: tuple[jax.Array, ...]) -> Any:
        # What an agent finds after this row: rewards up to its next decision and how that is
        # discounted from here, and what it is worth there, mixed by lambda.
        reward, discount, worth = ahead
        r, d, v, final, cut, acts = x
        r, d, cut = (jnp.broadcast_to(y[:, None], acts.shape) for y in (r, d, cut))
        reward = r + d * jnp.where(cut, 0.0, reward)
        discount = d * jnp.where(cut, 1.0, discount)
        advantage = reward + discount * jnp.where(cut, final, worth) - v
        return (
            jnp.where(acts, 0.0, reward),
            jnp.where(acts, 1.0, discount),
            jnp.where(acts, v + lambda_ * advantage, jnp.where(cut, final, worth)),
        ), jnp.where(acts, advantage, 0.0)

    start = (jnp.zeros_like(v_t[0]),) * 3
    rows = (r_t, discount_t, v_tm1, v_t, cut, acts_t)
    return jax.lax.scan(row, start, rows, reverse=True)[1]


def n_step(
    r_t: jax.Array, discount_t: jax.Array, ends_t: jax.Array, n: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Rewards of up to n steps, the discount of what follows them, and the step that ends them.

    ``R_t + discount * v(what followed row `last`)`` is the n-step return (Sutton and Barto 2018,
    equation 7.1). Where an episode ends within the n steps, they end with it.

    Args:
      r_t, discount_t, ends_t: as in `lambda_returns`, ``[T, N]`` with T >= n.
      n: how many steps at most.

    Returns:
      For the rows that have n rows from them on: summed rewards, the product of discounts (gamma^n,
      or zero after a termination), and the index of the last row summed, all ``[T - n + 1, N]``.
    """
    chex.assert_equal_shape([r_t, discount_t, ends_t])
    rows = len(r_t) - n + 1
    index = jnp.broadcast_to(jnp.arange(len(r_t))[:, None], r_t.shape)
    total, discount, last = r_t[n - 1 :], discount_t[n - 1 :], index[n - 1 :]
    for k in reversed(range(n - 1)):
        here = slice(k, k + rows)
        end = ends_t[here]
        total = r_t[here] + jnp.where(end, 0.0, discount_t[here] * total)
        discount = jnp.where(end, discount_t[here], discount_t[here] * discount)
        last = jnp.where(end, index[here], last)
    return total, discount, last


def _trace(ends_t: jax.Array, lambda_: float | jax.Array) -> jax.Array:
    """How much of the next row's return each row takes: nothing past an end or the last row."""
    return jnp.where(ends_t, 0.0, lambda_).at[-1].set(0.0)


def _backwards(a: jax.Array, b: jax.Array) -> jax.Array:
    """Solves ``x_t = a_t + b_t x_{t+1}`` from the last row up."""

    def step(x: jax.Array, ab: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        x = ab[0] + ab[1] * x
        return x, x

    return jax.lax.scan(step, jnp.zeros_like(a[0]), (a, b), reverse=True)[1]
