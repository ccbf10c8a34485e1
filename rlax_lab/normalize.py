"""Running statistics, and the two things that learners normalise with them.

Statistics live in the learner's state. Within one update they stand still, so that the policy
that learns is the policy that acted; they take in the new data afterwards.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rlax_lab import shards
from rlax_lab.types import PyTree


class Moments(NamedTuple):
    """Mean and variance of everything seen so far, per element of a pytree.

    Attributes:
      total: how many examples were seen (float32).
      mean: their mean.
      deviation: the sum of their squared deviations from it.
    """

    total: jax.Array
    mean: PyTree
    deviation: PyTree

    @classmethod
    def like(cls, example: PyTree) -> "Moments":
        """Statistics of nothing yet, for data of the shapes in `example`."""
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape), example)
        return cls(jnp.zeros(()), zeros, zeros)

    def include(self, batch: PyTree) -> "Moments":
        """Takes in a batch ``[..., *shape]``. Chan et al. (1983), equation 2.1.

        Of a run in parts it takes in those of all parts, as the average part.
        """
        structure: Any
        means, structure = jax.tree.flatten(self.mean)
        if not means:
            return self
        deviations, xs = structure.flatten_up_to(self.deviation), structure.flatten_up_to(batch)
        n = xs[0].size / means[0].size
        total = self.total + n

        def merge(mean: jax.Array, deviation: jax.Array, x: jax.Array) -> tuple[Any, Any]:
            axes = tuple(range(x.ndim - mean.ndim))
            shift = shards.mean(jnp.mean(x, axes)) - mean
            spread = shards.mean(jnp.sum(jnp.square(x - _over(mean + shift, x)), axes))
            return (
                mean + shift * (n / total),
                deviation + spread + jnp.square(shift) * (self.total * n / total),
            )

        merged = [merge(*leaf) for leaf in zip(means, deviations, xs, strict=True)]
        new_means, new_deviations = zip(*merged, strict=True)
        return Moments(total, structure.unflatten(new_means), structure.unflatten(new_deviations))

    def std(self) -> PyTree:
        """Standard deviations, 1 where nothing was seen; never below 1e-4."""
        return jax.tree.map(
            lambda d: jnp.where(
                self.total > 0,
                jnp.maximum(jnp.sqrt(d / jnp.maximum(self.total, 1.0)), 1e-4),
                1.0,
            ),
            self.deviation,
        )

    def normalize(self, x: PyTree, limit: float = 10.0) -> PyTree:
        """`x` shifted and scaled to mean 0 and deviation 1, clipped to +-`limit`."""
        return jax.tree.map(
            lambda x, m, s: jnp.clip((x - _over(m, x)) / _over(s, x), -limit, limit),
            x,
            self.mean,
            self.std(),
        )


def _over(statistic: jax.Array, x: jax.Array) -> jax.Array:
    """A statistic repeated over the leading axes of `x`."""
    return jnp.broadcast_to(statistic, x.shape)


class RewardScale(NamedTuple):
    """Scales rewards by the deviation of the discounted return, without shifting them.

    Engstrom et al. (2020), "Implementation matters in deep policy gradients", section 3.

    Attributes:
      moments: of the discounted return up to each step.
      returns: that return in each environment, as it counts at the next step ``[N]``.
    """

    moments: Moments
    returns: jax.Array

    @classmethod
    def zero(cls, num_envs: int) -> "RewardScale":
        return cls(Moments.like(jnp.zeros(())), jnp.zeros(num_envs))

    def apply(
        self, r_t: jax.Array, ends_t: jax.Array, discount_t: jax.Array
    ) -> tuple[jax.Array, "RewardScale"]:
        """Takes in rewards, ends and discounts of what follows ``[T, N]``; scales those rewards.

        Scaling does not touch the policy, so the newest rewards may count at once.
        """

        def accumulate(g: jax.Array, x: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
            r, end, discount = x
            g = g + r
            return jnp.where(end, 0.0, discount * g), g

        returns, history = jax.lax.scan(accumulate, self.returns, (r_t, ends_t, discount_t))
        moments = self.moments.include(history)
        std = moments.std()
        # Returns that never vary have nothing to be scaled by.
        return r_t / jnp.where(std > 1e-4, std, 1.0), RewardScale(moments, returns)


def scale_rewards(
    scale: RewardScale | None, r_t: jax.Array, ends_t: jax.Array, discount_t: jax.Array
) -> tuple[jax.Array, RewardScale | None]:
    """`RewardScale.apply`, or the rewards as they are where there is no scale."""
    return (r_t, None) if scale is None else scale.apply(r_t, ends_t, discount_t)


def standardize(x: jax.Array, where: jax.Array | None = None) -> jax.Array:
    """`x` with mean 0 and standard deviation 1 over all entries, or those `where` it is true.

    Of a run in parts, over the entries of all parts.
    """
    x = x - shards.mean_of(x, where)
    return x / (jnp.sqrt(shards.mean_of(jnp.square(x), where)) + 1e-8)
