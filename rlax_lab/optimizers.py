"""Directions of descent, by optax; the learners scale them by their own learning rates."""

import jax
import jax.numpy as jnp
import optax

from rlax_lab.types import Counter, PyTree


def adam(
    eps: float | jax.Array, max_grad_norm: float | jax.Array | None
) -> optax.GradientTransformation:
    """Adam's direction (Kingma and Ba 2015), of gradients clipped by their global norm.

    Args:
      eps: added to the root of the second moment.
      max_grad_norm: of all gradients together; None for no clipping.
    """
    return optax.flatten(optax.chain(_clip(max_grad_norm), optax.scale_by_adam(eps=eps)))


def rmsprop(
    decay: float | jax.Array, eps: float | jax.Array, max_grad_norm: float | jax.Array | None
) -> optax.GradientTransformation:
    """RMSProp's direction without centring, ``g / sqrt(E[g^2] + eps)``.

    Mnih et al. (2016), section 4, equation 8: epsilon under the root, the mean starting at 0.
    """
    scale = optax.scale_by_rms(decay=decay, eps=eps, initial_scale=0.0, eps_in_sqrt=True)
    return optax.flatten(optax.chain(_clip(max_grad_norm), scale))


def _clip(max_grad_norm: float | jax.Array | None) -> optax.GradientTransformation:
    if max_grad_norm is None:
        return optax.identity()
    return optax.clip_by_global_norm(max_grad_norm)


def descend(weights: PyTree, direction: PyTree, learning_rate: float | jax.Array) -> PyTree:
    """`weights` moved against `direction`."""
    return jax.tree.map(lambda w, d: w - learning_rate * d, weights, direction)


def norm(gradient: PyTree) -> jax.Array:
    """The norm of all of a gradient, as of the one array that `adam` and `rmsprop` make of it."""
    flat = jnp.concatenate([jnp.ravel(x) for x in jax.tree.leaves(gradient)])
    return jnp.sqrt(jnp.sum(jnp.square(flat)))


def remaining(steps: Counter, total_steps: int) -> jax.Array:
    """The part of a run still ahead, 1 at its start and 0 from its end on."""
    return jnp.maximum(0.0, 1.0 - steps.as_float() / float(total_steps))
