"""Losses, to be minimised. Policy losses are means over all axes; value losses are said at each.

In a mean, entries may have weights ``[...]``, whose own mean is 1 (`shards.weights`): 0 leaves out
agents that did not decide.
"""

import chex
import jax
import jax.numpy as jnp


def mean(x: jax.Array, weight: jax.Array | None = None) -> jax.Array:
    """The mean of all entries, each `weight` times; what has none may be anything."""
    if weight is None:
        return jnp.mean(x)
    return jnp.mean(weight * jnp.where(weight > 0, x, 0.0))


def policy_gradient(log_prob: jax.Array, advantage: jax.Array) -> jax.Array:
    """The loss whose gradient is the policy gradient, negated: ``-mean(log_prob * advantage)``.

    Williams (1992), equation 11, and Mnih et al. (2016), section 4.

    Args:
      log_prob: log-probability of the actions taken ``[...]``.
      advantage: how much better than expected they turned out ``[...]``; taken as constant.
    """
    chex.assert_equal_shape([log_prob, advantage])
    return -jnp.mean(log_prob * jax.lax.stop_gradient(advantage))


def clipped_surrogate(
    log_prob: jax.Array,
    old_log_prob: jax.Array,
    advantage: jax.Array,
    clip_range: float | jax.Array,
    weight: jax.Array | None = None,
) -> jax.Array:
    """PPO's clipped objective, negated. Schulman et al. (2017), equation 7.

    Args:
      log_prob: log-probability of the actions taken, under the policy being learnt ``[...]``.
      old_log_prob: the same under the policy that acted ``[...]``.
      advantage: ``[...]``.
      clip_range: epsilon, the half-width of the band around a ratio of 1.
    """
    chex.assert_equal_shape([log_prob, old_log_prob, advantage])
    # Below the overflow: infinity times the zero gradient of a clipped ratio would be NaN.
    ratio = jnp.exp(jnp.minimum(log_prob - old_log_prob, 80.0))
    clipped = jnp.clip(ratio, 1.0 - clip_range, 1.0 + clip_range)
    return -mean(jnp.minimum(ratio * advantage, clipped * advantage), weight)


def surrogate(
    log_prob: jax.Array,
    old_log_prob: jax.Array,
    advantage: jax.Array,
    weight: jax.Array | None = None,
) -> jax.Array:
    """The importance-weighted objective, negated. Schulman et al. (2017), equation 6.

    Shapes as in `clipped_surrogate`.
    """
    chex.assert_equal_shape([log_prob, old_log_prob, advantage])
    return -mean(jnp.exp(log_prob - old_log_prob) * advantage, weight)


def approximate_kl(
    log_prob: jax.Array, old_log_prob: jax.Array, weight: jax.Array | None = None
) -> jax.Array:
    """KL(old || new) from samples of the old policy: the mean of ``ratio - 1 - log ratio``.

    Unbiased and never negative (Schulman 2020, "Approximating KL divergence", estimator k3).
    """
    chex.assert_equal_shape([log_prob, old_log_prob])
    log_ratio = log_prob - old_log_prob
    return mean(jnp.expm1(log_ratio) - log_ratio, weight)


def squared_error(
    value: jax.Array, target: jax.Array, weight: jax.Array | None = None
) -> jax.Array:
    """Half the mean squared error between `value` and `target` ``[...]``."""
    chex.assert_equal_shape([value, target])
    return 0.5 * mean(jnp.square(value - target), weight)


def clipped_squared_error(
    value: jax.Array,
    old_value: jax.Array,
    target: jax.Array,
    clip_range: float | jax.Array,
    weight: jax.Array | None = None,
) -> jax.Array:
    """Squared error that gives no credit for moving further than `clip_range` from `old_value`.

    Half the mean of the larger of the errors of the value and of the clipped value (the form of
    OpenAI's baselines; the PPO paper has no such term).
    """
    chex.assert_equal_shape([value, old_value, target])
    clipped = old_value + jnp.clip(value - old_value, -clip_range, clip_range)
    errors = jnp.maximum(jnp.square(value - target), jnp.square(clipped - target))
    return 0.5 * mean(errors, weight)


def huber(error: jax.Array, threshold: float | jax.Array = 1.0) -> jax.Array:
    """``error^2 / 2`` up to `threshold` and linear beyond, elementwise. Huber (1964).

    Its gradient is the error clipped to +-`threshold` (Mnih et al. 2015, methods).
    """
    size = jnp.abs(error)
    inner = jnp.minimum(size, threshold)
    return 0.5 * jnp.square(inner) + threshold * (size - inner)


def project_distribution(
    atoms: jax.Array, probabilities: jax.Array, r_t: jax.Array, discount_t: jax.Array
) -> jax.Array:
    """A return distribution after a reward and a discount, back on the atoms it came from.

    Bellemare et al. (2017), algorithm 1: every atom moves to ``r + discount z``, is clipped to the
    range, and shares its probability between the two atoms next to it.

    Args:
      atoms: support z, evenly spaced ``[K]``.
      probabilities: ``[B, K]``.
      r_t, discount_t: ``[B]``.

    Returns:
      Probabilities ``[B, K]``.
    """
    chex.assert_rank([atoms, probabilities, r_t, discount_t], [1, 2, 1, 1])
    moved = r_t[:, None] + discount_t[:, None] * atoms[None]
    moved = jnp.clip(moved, atoms[0], atoms[-1])
    spacing = (atoms[-1] - atoms[0]) / (len(atoms) - 1)
    distance = jnp.abs(moved[:, None, :] - atoms[None, :, None]) / spacing  # [B, to, from]
    share = jnp.maximum(0.0, 1.0 - distance)
    return jnp.einsum("btf,bf->bt", share, probabilities)


def quantile_huber(
    quantiles: jax.Array, target: jax.Array, threshold: float | jax.Array = 1.0
) -> jax.Array:
    """Quantile regression of a return distribution on samples of its target, per row ``[B]``.

    Dabney et al. (2018), equations 9 and 10: summed over quantiles, averaged over targets.

    Args:
      quantiles: K estimated quantiles, at the midpoints ``(2i + 1) / 2K`` ``[B, K]``.
      target: equally likely samples ``[B, K']``.
      threshold: where the Huber loss turns linear.
    """
    chex.assert_rank([quantiles, target], 2)
    num_quantiles = quantiles.shape[1]
    midpoints = (jnp.arange(num_quantiles) + 0.5) / num_quantiles
    error = target[:, None, :] - quantiles[:, :, None]  # [B, K, K']
    weight = jnp.abs(midpoints[None, :, None] - (error < 0))
    return jnp.sum(jnp.mean(weight * huber(error, threshold) / threshold, axis=2), axis=1)
