"""Gradients of a loss over many rows."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from rlax_lab import shards
from rlax_lab.types import PyTree

# Rows whose activations stay in a CPU's cache. With two towers of 64 and 64 units, gradients of
# 65,536 rows take 1.6 times as long in one piece; 1,024 to 16,384 rows are alike.
_CHUNK = 1024


def gradient(
    loss: Callable[[PyTree, Any], tuple[jax.Array, PyTree]],
    weights: PyTree,
    rows: Any,
    where: jax.Array | None = None,
) -> tuple[PyTree, PyTree]:
    """The gradient of a loss that is a mean over rows, and the loss's report.

    Of a run in parts it is that over the rows of all parts. On a CPU it is added up over chunks of
    the rows, which is the same sum.

    Args:
      loss: ``loss(weights, rows) -> (mean over the rows, report of such means)``.
      rows: a pytree of arrays ``[B, ...]``.
      where: over which entries the loss takes its means, if not over all ``[B, ...]``.
    """
    whole = jax.grad(loss, has_aux=True)
    num_rows = len(jax.tree.leaves(rows)[0])
    chunk = _chunk(num_rows) if jax.default_backend() == "cpu" else num_rows
    if chunk == num_rows and where is None:
        return shards.mean(whole(weights, rows))
    chunks = num_rows // chunk
    cut = lambda x: x.reshape(chunks, chunk, *x.shape[1:])  # noqa: E731
    if where is None:
        shares = jnp.full(chunks, 1.0 / chunks)
    else:
        counts = jnp.sum(cut(where).reshape(chunks, -1), axis=1)
        total_count = shards.mean(jnp.sum(counts))
        shares = counts / jnp.where(total_count > 0, total_count, 1)

    def add(total: PyTree, x: tuple[Any, jax.Array]) -> tuple[PyTree, None]:
        rows, share = x
        return jax.tree.map(lambda t, g: t + share * g, total, whole(weights, rows)), None

    parts = jax.tree.map(cut, rows), shares
    shapes = jax.eval_shape(whole, weights, jax.tree.map(lambda x: x[0], parts[0]))
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    total: tuple[PyTree, PyTree] = shards.mean(jax.lax.scan(add, zeros, parts)[0])
    return total


def _chunk(num_rows: int) -> int:
    """The largest divisor up to `_CHUNK`, or all rows where the divisors are far from it."""
    best = max(d for d in range(1, min(num_rows, _CHUNK) + 1) if num_rows % d == 0)
    return best if best >= _CHUNK // 4 else num_rows
