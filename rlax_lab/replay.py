"""Replay on the device: a ring of transitions, and a tree to draw from it by priority.

Both are pure: every function returns what it changed. Neither cost depends on the capacity, but
for the tree's depth, its logarithm.
"""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from rlax_lab.types import PyTree


class Buffer(NamedTuple):
    """The newest transitions, in arrays of their own types.

    Attributes:
      items: a pytree ``[capacity, ...]``.
      position: where the next transition goes (int32).
      size: how many there are (int32).
    """

    items: PyTree
    position: jax.Array
    size: jax.Array

    @classmethod
    def empty(cls, example: PyTree, capacity: int) -> "Buffer":
        """Room for `capacity` transitions like `example`."""
        items = jax.tree.map(lambda x: jnp.zeros((capacity, *x.shape), x.dtype), example)
        return cls(items, jnp.int32(0), jnp.int32(0))

    @property
    def capacity(self) -> int:
        return len(jax.tree.leaves(self.items)[0])

    def add(self, rows: PyTree) -> tuple["Buffer", jax.Array]:
        """Puts B <= capacity transitions ``[B, ...]`` in the place of the oldest.

        Returns:
          The buffer, and where the transitions went: indices ``[B]``.
        """
        num_rows = len(jax.tree.leaves(rows)[0])
        chex.assert_scalar_in(num_rows, 1, self.capacity)
        indices = (self.position + jnp.arange(num_rows)) % self.capacity
        items = jax.tree.map(lambda x, y: x.at[indices].set(y), self.items, rows)
        position = (self.position + num_rows) % self.capacity
        size = jnp.minimum(self.size + num_rows, self.capacity)
        return Buffer(items, position, size), indices

    def take(self, indices: jax.Array) -> PyTree:
        """The transitions at `indices` ``[...]``."""
        return jax.tree.map(lambda x: x[indices], self.items)

    def draw(self, key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        """Indices of transitions, each as likely as any other, with replacement.

        The probabilities differ by less than 2^-32; `jax.random.randint` draws bits twice.
        """
        return scale(jax.random.bits(key, shape, jnp.uint32), self.size)


def scale(bits: jax.Array, n: jax.Array) -> jax.Array:
    """``floor(bits * n / 2^32)`` as int32 ``[...]``, from words of 32 bits alone.

    Args:
      bits: uint32 ``[...]``.
      n: below 2^31, a scalar.
    """
    n = n.astype(jnp.uint32)
    low, high = bits & 0xFFFF, bits >> 16
    n_low, n_high = n & 0xFFFF, n >> 16
    carry = high * n_low + (low * n_low >> 16)
    middle = low * n_high + (carry & 0xFFFF)
    return (high * n_high + (carry >> 16) + (middle >> 16)).astype(jnp.int32)


class SumTree(NamedTuple):
    """Weights of `capacity` leaves, each inner node the sum of its two children.

    Schaul et al. (2016), appendix B.2.1. `nodes` is ``[2 * width]``, with width the next power of
    two: node 1 is the root, node i has the children 2i and 2i + 1, the leaves start at `width`.
    A node is always computed anew from its children, so rounding errors do not pile up.
    """

    nodes: jax.Array

    @classmethod
    def empty(cls, capacity: int) -> "SumTree":
        width = 1 << (capacity - 1).bit_length()
        return cls(jnp.zeros(2 * width))

    @property
    def width(self) -> int:
        return len(self.nodes) // 2

    @property
    def total(self) -> jax.Array:
        return self.nodes[1]

    @property
    def depth(self) -> int:
        """How many levels the leaves are below the root."""
        return self.width.bit_length() - 1

    def set(self, indices: jax.Array, weights: jax.Array) -> "SumTree":
        """Gives leaves `indices` ``[B]`` new weights ``[B]``, none negative.

        Where an index comes up twice, both must bring the same weight.
        """
        chex.assert_equal_shape([indices, weights])

        def parents(_: int, carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            nodes, at = carry
            at = at // 2
            return nodes.at[at].set(nodes[2 * at] + nodes[2 * at + 1]), at

        leaves = indices + self.width
        start = self.nodes.at[leaves].set(weights), leaves
        return SumTree(jax.lax.fori_loop(0, self.depth, parents, start)[0])

    def draw(self, key: jax.Array, n: int) -> tuple[jax.Array, jax.Array]:
        """Leaves drawn in proportion to their weights: indices ``[n]`` and weights ``[n]``.

        Stratified as in the paper: one draw from each n-th of the total. A leaf of weight zero is
        never drawn, whatever rounding does, as long as the total is above zero.
        """

        # A loop, and the weights out of it, because of what would else be fused: a read that the
        # compiler puts off until after the next `set` makes it copy the whole tree.
        def children(_: int, carry: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
            at, mass, _weights = carry
            left, right = self.nodes[2 * at], self.nodes[2 * at + 1]
            go_right = (right > 0) & (mass >= left)
            mass = jnp.where(go_right, mass - left, mass)
            return 2 * at + go_right, mass, jnp.where(go_right, right, left)

        mass = (jnp.arange(n) + jax.random.uniform(key, (n,))) * (self.total / n)
        start = jnp.ones(n, jnp.int32), mass, jnp.broadcast_to(self.total, n)
        leaves, _, weights = jax.lax.fori_loop(0, self.depth, children, start)
        return leaves - self.width, weights


def importance_weights(weights: jax.Array, exponent: float | jax.Array) -> jax.Array:
    """``(size * probability)^-exponent``, divided by the largest of them ``[B]``.

    Schaul et al. (2016), section 3.4: 1 undoes the bias of drawing by priority, 0 leaves it. Scaled
    by the batch's largest, so that steps only shrink; with that the size and the total drop out.

    Args:
      weights: the probabilities, or any multiple of them, as `SumTree.draw` gives ``[B]``.
      exponent: beta of the paper.
    """
    return (jnp.min(weights) / weights) ** exponent
