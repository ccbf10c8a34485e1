"""Shuffled indices without sorting.

`jax.random.permutation` sorts random keys, which costs more than the gradients that use the
order. A Feistel network is a bijection for whatever its round functions are, takes a few
operations per index, and needs no memory of the others.
"""

import math

import jax
import jax.numpy as jnp

_ROUNDS = 8
# Below this size sorting is cheap, and halves of a few bits would mix too little.
_SMALL = 256


def permutation(key: jax.Array, n: int) -> jax.Array:
    """A pseudo-random order of ``0 .. n - 1`` as int32 ``[n]``.

    An unbalanced Feistel network on pairs (left, right) with additions modulo the sizes of the
    halves (Black and Rogaway 2002, "Ciphers with arbitrary finite domains", the generalised
    Feistel cipher); the few images beyond n walk on along their cycle until they are inside.
    """
    if n < _SMALL:
        return jax.random.permutation(key, n).astype(jnp.int32)
    a, b = _halves(n)
    round_keys = jax.random.bits(key, (_ROUNDS, 2), jnp.uint32)

    def mix(left: jax.Array, right: jax.Array) -> tuple[jax.Array, jax.Array]:
        for k_left, k_right in round_keys:
            left = _add_modulo(left, _below(right, k_left, a), a)
            right = _add_modulo(right, _below(left, k_right, b), b)
        return left, right

    def outside(pair: tuple[jax.Array, jax.Array]) -> jax.Array:
        return pair[0] * b + pair[1] >= n

    def walk(pair: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        left, right = mix(*pair)
        out = outside(pair)
        return jnp.where(out, left, pair[0]), jnp.where(out, right, pair[1])

    grid = (
        jax.lax.broadcasted_iota(jnp.uint32, (a, b), 0),
        jax.lax.broadcasted_iota(jnp.uint32, (a, b), 1),
    )
    start = tuple(x.reshape(-1)[:n] for x in grid)
    pair = mix(*start)
    if a * b > n:
        pair = jax.lax.while_loop(lambda pair: jnp.any(outside(pair)), walk, pair)
    return (pair[0] * b + pair[1]).astype(jnp.int32)


def _halves(n: int) -> tuple[int, int]:
    """Sizes of the two halves, much alike, whose product is `n`, or else a little more.

    With no more than n pairs there is nothing to walk on from, which is most of the time.
    """
    root = math.isqrt(n - 1) + 1
    for a in range(root, root // 4, -1):
        if n % a == 0 and n // a <= 2**16:
            return a, n // a
    return root, -(-n // root)


def _below(x: jax.Array, key: jax.Array, bound: int) -> jax.Array:
    """A hash of `x` under `key`, spread over 0 .. bound - 1 (bound at most 2^16)."""
    h = (x ^ key) * jnp.uint32(0x9E3779B1)
    h = (h ^ (h >> 15)) * jnp.uint32(0x85EBCA77)
    h = (h ^ (h >> 13)) * jnp.uint32(0xC2B2AE3D)
    return ((h >> 16) * jnp.uint32(bound)) >> 16


def _add_modulo(x: jax.Array, y: jax.Array, modulus: int) -> jax.Array:
    total = x + y
    return jnp.where(total >= modulus, total - jnp.uint32(modulus), total)
