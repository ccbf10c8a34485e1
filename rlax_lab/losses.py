"""Policy-gradient losses, each a mean over all axes of its arrays. To be minimised."""

import chex
import jax
import jax.numpy as jnp


def clipped_surrogate(
    log_prob: jax.Array,
    old_log_prob: jax.Array,
    advantage: jax.Array,
    clip_range: float | jax.Array,
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
    return -jnp.mean(jnp.minimum(ratio * advantage, clipped * advantage))


def surrogate(log_prob: jax.Array, old_log_prob: jax.Array, advantage: jax.Array) -> jax.Array:
    """The importance-weighted objective, negated. Schulman et al. (2017), equation 6.

    Shapes as in `clipped_surrogate`.
    """
    chex.assert_equal_shape([log_prob, old_log_prob, advantage])
    return -jnp.mean(jnp.exp(log_prob - old_log_prob) * advantage)


def approximate_kl(log_prob: jax.Array, old_log_prob: jax.Array) -> jax.Array:
    """KL(old || new) from samples of the old policy: the mean of ``ratio - 1 - log ratio``.

    Unbiased and never negative (Schulman 2020, "Approximating KL divergence", estimator k3).
    """
    chex.assert_equal_shape([log_prob, old_log_prob])
    log_ratio = log_prob - old_log_prob
    return jnp.mean(jnp.expm1(log_ratio) - log_ratio)


def squared_error(value: jax.Array, target: jax.Array) -> jax.Array:
    """Half the mean squared error between `value` and `target` ``[...]``."""
    chex.assert_equal_shape([value, target])
    return 0.5 * jnp.mean(jnp.square(value - target))


def clipped_squared_error(
    value: jax.Array, old_value: jax.Array, target: jax.Array, clip_range: float | jax.Array
) -> jax.Array:
    """Squared error that gives no credit for moving further than `clip_range` from `old_value`.

    Half the mean of the larger of the errors of the value and of the clipped value (the form of
    OpenAI's baselines; the PPO paper has no such term).
    """
    chex.assert_equal_shape([value, old_value, target])
    clipped = old_value + jnp.clip(value - old_value, -clip_range, clip_range)
    return 0.5 * jnp.mean(jnp.maximum(jnp.square(value - target), jnp.square(clipped - target)))
