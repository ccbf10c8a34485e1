"""Sums that do not overflow: 64-bit counts in two words of 32 bits, with JAX's 64-bit mode off."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Wide(NamedTuple):
    """Unsigned sums ``high * 2^32 + low``, of any shape."""

    high: jax.Array
    low: jax.Array

    @staticmethod
    def zeros(shape: tuple[int, ...] = ()) -> "Wide":
        return Wide(jnp.zeros(shape, jnp.uint32), jnp.zeros(shape, jnp.uint32))

    def add(self, x: jax.Array) -> "Wide":
        """The sums plus `x`, int32 and not negative."""
        low = self.low + x.astype(jnp.uint32)
        return Wide(self.high + (low < self.low).astype(jnp.uint32), low)

    def add_product(self, x: jax.Array, y: jax.Array) -> "Wide":
        """The sums plus ``x * y``: int32, not negative, y below 2^15."""
        x, y = x.astype(jnp.uint32), y.astype(jnp.uint32)
        upper = (x >> 16) * y
        lower = (x & 0xFFFF) * y
        with_lower = self.add(lower)
        return Wide(with_lower.high + (upper >> 16), with_lower.low).add(upper << 16)

    def as_float(self) -> jax.Array:
        """The sums rounded to float32."""
        return self.high.astype(jnp.float32) * 2.0**32 + self.low.astype(jnp.float32)

    def numpy(self) -> np.ndarray:
        """The sums, exact up to 2^53, as float64 on the host."""
        return np.asarray(self.high, np.float64) * 2.0**32 + np.asarray(self.low, np.float64)
