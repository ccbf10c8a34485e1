"""Gradients of a loss over many rows, and functions of each."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from rlax_lab import shards
from rlax_lab.types import PyTree

# Rows whose activations stay in a CPU's cache: gradients of 65,536 rows in one piece take 1.6 times
# as long, and activations are most of the memory that an update needs. XLA gives the cores of one
# device a share each of an operation, which pays from about so many rows on: with half of them
# PPO at 2048 environments takes 1.3 to 1.5 times as long. Where a core is a device of its own, half
# of them are better.
_CHUNK = 2048


def gradient(
    loss: Callable[[PyTree, Any], tuple[jax.Array, PyTree]], weights: PyTree, rows: Any
) -> tuple[PyTree, PyTree]:
    """The gradient of a loss that is a mean over rows, and the loss's report.

    Of a run in parts it is that over the rows of all parts. On a CPU it is the mean over chunks of
    the rows, which is the same.

    Args:
      loss: ``loss(weights, rows) -> (mean over the rows, report of such means)``.
      rows: a pytree of arrays ``[B, ...]``.
    """
    whole = jax.grad(loss, has_aux=True)
    parts = _chunks(rows)
    if parts is None:
        return shards.mean(whole(weights, rows))
    chunks = len(jax.tree.leaves(parts)[0])

    def add(total: PyTree, rows: Any) -> tuple[PyTree, None]:
        return jax.tree.map(lambda t, g: t + g / chunks, total, whole(weights, rows)), None

    shapes = jax.eval_shape(whole, weights, jax.tree.map(lambda x: x[0], parts))
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    total: tuple[PyTree, PyTree] = shards.mean(jax.lax.scan(add, zeros, parts)[0])
    return total


def each(function: Callable[[Any], jax.Array], rows: Any) -> jax.Array:
    """``function(rows)``, where it is of each row by itself; on a CPU of chunks, one by one.

    Args:
      function: from a pytree of arrays ``[B, ...]`` to an array ``[B, ...]``.
      rows: all rows.
    """
    parts = _chunks(rows)
    if parts is None:
        return function(rows)
    found = jax.lax.map(function, parts)
    return found.reshape(-1, *found.shape[2:])


def _chunks(rows: Any) -> Any | None:
    """The rows in chunks ``[chunks, rows, ...]``; None where they are to be in one piece."""
    num_rows = len(jax.tree.leaves(rows)[0])
    if jax.default_backend() != "cpu":
        return None
    chunk = _chunk(num_rows, _CHUNK // 2 if shards.on_several_devices() else _CHUNK)
    if chunk == num_rows:
        return None
    return jax.tree.map(lambda x: x.reshape(-1, chunk, *x.shape[1:]), rows)


def _chunk(num_rows: int, most: int) -> int:
    """The largest divisor up to `most`, or all rows where the divisors are far from it."""
    best = max(d for d in range(1, min(num_rows, most) + 1) if num_rows % d == 0)
    return best if best >= most // 4 else num_rows
