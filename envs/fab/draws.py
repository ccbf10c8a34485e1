"""Random numbers that belong to entities, not to the order of events.

Every draw is a function of a key and of what it is for: the processing time of lot 7 at its
operation 12, the third repair of tool 5. Two policies that see the same key therefore see the same
arrivals, durations and failures, whatever order they cause, and their difference is sharp.

The generator is Threefry-2x32 with 20 rounds (Salmon et al. 2011, "Parallel random numbers: as
easy as 1, 2, 3"), the one under `jax.random`, but elementwise: one key and one counter per number.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

# What a draw is for; the second word of its counter.
(
    LOT,
    RELEASE,
    ORDER,
    HOT,
    PROCESSING,
    RANK,
    BREAKDOWN,
    REPAIR,
    SERVICE,
    PIECES,
    GAMMA_PROPOSAL,
) = range(11)

# How a duration spreads about its mean; `Spread.kind`.
KINDS = ("deterministic", "uniform", "lognormal", "exponential", "gamma")
DETERMINISTIC, UNIFORM, LOGNORMAL, EXPONENTIAL, GAMMA = range(5)


# No draw is longer, in ticks: what starts within a run must end before `instance.NEVER`.
LONGEST = 30_000_000


class Words(NamedTuple):
    """Two words of 32 random bits, also usable as a key."""

    a: jax.Array
    b: jax.Array


def words(key: jax.Array) -> Words:
    """The words of a typed key."""
    data = jax.random.key_data(key)
    return Words(data[..., 0], data[..., 1])


def draw(key: Words, stream: int, counter: jax.Array, minor: jax.Array | int = 0) -> Words:
    """64 random bits for each counter.

    Args:
      key: of the entity, any shape that broadcasts with `counter`.
      stream: what the draw is for.
      counter: int32, any.
      minor: int32 in [0, 2^28).
    """
    x = jnp.asarray(counter).astype(jnp.uint32)
    y = jnp.asarray(minor).astype(jnp.uint32) | jnp.uint32(stream << 28)
    return _threefry(key, *jnp.broadcast_arrays(x, y))


@jax.jit  # so that the many draws of a step are traced once
def _threefry(key: Words, x: jax.Array, y: jax.Array) -> Words:
    keys = (key.a, key.b, key.a ^ key.b ^ jnp.uint32(0x1BD11BDA))
    x, y = x + keys[0], y + keys[1]
    for block in range(5):
        for rotation in ((13, 15, 26, 6), (17, 29, 16, 24))[block % 2]:
            x = x + y
            y = ((y << rotation) | (y >> (32 - rotation))) ^ x
        x = x + keys[(block + 1) % 3]
        y = y + keys[(block + 2) % 3] + jnp.uint32(block + 1)
    return Words(x, y)


def uniform(bits: jax.Array) -> jax.Array:
    """float32 in (0, 1), never 0 or 1, from 32 random bits."""
    return ((bits >> 9).astype(jnp.float32) + 0.5) * jnp.float32(2.0**-23)


@functools.partial(jax.jit, static_argnames="kinds")  # as `_threefry`
def duration(
    bits: Words, mean: jax.Array, kind: jax.Array, cv: jax.Array, kinds: tuple[int, ...]
) -> jax.Array:
    """Durations in whole ticks, at least 1 and at most `LONGEST`.

    Args:
      bits: for each duration.
      mean: float32, in ticks.
      kind: int32, an index of `KINDS`.
      cv: float32, the coefficient of variation: standard deviation over mean. Exponential
        durations have 1 whatever it says; uniform ones at most 0.577, where they start at 0.
      kinds: those that occur; what does not occur is not computed.
    """
    u = uniform(bits.a)
    factor = jnp.ones_like(u)
    if UNIFORM in kinds:
        factor = jnp.where(
            kind == UNIFORM, 1.0 + jnp.sqrt(jnp.float32(3.0)) * cv * (2 * u - 1), 1.0
        )
    if EXPONENTIAL in kinds:
        factor = jnp.where(kind == EXPONENTIAL, -jnp.log(u), factor)
    if LOGNORMAL in kinds:
        variance = jnp.log1p(cv * cv)
        normal = jax.scipy.special.ndtri(u)
        value = jnp.exp(jnp.sqrt(variance) * normal - variance / 2)
        factor = jnp.where(kind == LOGNORMAL, value, factor)
    if GAMMA in kinds:
        shape = 1.0 / jnp.square(jnp.where(kind == GAMMA, cv, 1.0))
        factor = jnp.where(kind == GAMMA, _gamma(bits, shape) / shape, factor)
    return jnp.clip(jnp.round(mean * factor), 1, LONGEST).astype(jnp.int32)


def _gamma(bits: Words, shape: jax.Array) -> jax.Array:
    """Gamma variates of scale 1 (Marsaglia, Tsang 2000), at most 8 proposals each.

    A proposal is accepted with at least 0.95, so 1 variate in 10^10 is a rejected one.
    """
    # Below 1 the shape is raised by 1, and a power of a uniform takes that back.
    large = jnp.maximum(shape, 0.0) + (shape < 1)
    d = large - 1 / 3
    c = 1 / jnp.sqrt(9 * d)

    def propose(proposal: int, carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        value, accepted = carry
        more = draw(bits, GAMMA_PROPOSAL, jnp.int32(proposal))
        x = jax.scipy.special.ndtri(uniform(more.a))
        v = jnp.maximum(1 + c * x, 1e-6) ** 3
        accept = jnp.log(uniform(more.b)) < 0.5 * x * x + d * (1 - v + jnp.log(v))
        value = jnp.where(accepted, value, v)
        return value, accepted | (accept & (1 + c * x > 0))

    shape_of_all = jnp.broadcast_shapes(bits.a.shape, shape.shape)
    none = (jnp.ones(shape_of_all, jnp.float32), jnp.zeros(shape_of_all, bool))
    value, _ = jax.lax.fori_loop(0, 8, propose, none)
    return d * value * jnp.where(shape < 1, uniform(bits.b) ** (1 / shape), 1.0)
