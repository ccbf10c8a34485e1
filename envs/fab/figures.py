"""What is measured, exactly: sums over lots and tools of the time they spend in a window."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from .instance import Instance
from .wide import Wide


class Window(NamedTuple):
    """Ticks ``[start, end)`` in which figures are taken: after the warm-up, to the run's end."""

    start: jax.Array
    end: jax.Array

    def overlap(self, start: jax.Array, end: jax.Array) -> jax.Array:
        """How many ticks of ``[start, end)`` lie inside."""
        ticks = jnp.minimum(end, self.end) - jnp.maximum(start, self.start)
        return jnp.maximum(ticks, 0)

    def holds(self, tick: jax.Array) -> jax.Array:
        """Whether something that ends at `tick` ends inside."""
        return (tick > self.start) & (tick <= self.end)


class Figures(NamedTuple):
    """Sums over a window.

    Attributes:
      processing, setup, down: tool ticks ``[G]``, each tick of a tool counted in one at most.
      moves: operations of lots that ended ``[G]``.
      finished, on_time: lots that left ``[P]``, and those not later than due.
      cycle_time, tardiness, weighted_tardiness: of those ``[P]``, in ticks.
      lot_time: ticks that those spent in the fab within the window ``[]``.
    """

    processing: Wide
    setup: Wide
    down: Wide
    moves: jax.Array
    finished: jax.Array
    on_time: jax.Array
    cycle_time: Wide
    tardiness: Wide
    weighted_tardiness: Wide
    lot_time: Wide

    @staticmethod
    def zeros(instance: Instance) -> "Figures":
        groups, products = (instance.num_groups,), (instance.num_products,)
        return Figures(
            processing=Wide.zeros(groups),
            setup=Wide.zeros(groups),
            down=Wide.zeros(groups),
            moves=jnp.zeros(groups, jnp.int32),
            finished=jnp.zeros(products, jnp.int32),
            on_time=jnp.zeros(products, jnp.int32),
            cycle_time=Wide.zeros(products),
            tardiness=Wide.zeros(products),
            weighted_tardiness=Wide.zeros(products),
            lot_time=Wide.zeros(),
        )

    def left(
        self,
        window: Window,
        happens: jax.Array,
        product: jax.Array,
        tick: jax.Array,
        release: jax.Array,
        due: jax.Array,
        weight: jax.Array,
    ) -> "Figures":
        """Counts a lot that leaves at `tick`, where that `happens`; all are scalars."""
        counts = happens & window.holds(tick)
        mine = counts & (jnp.arange(self.finished.shape[0]) == product)
        late = jnp.maximum(tick - due, 0)
        return self._replace(
            finished=self.finished + mine,
            on_time=self.on_time + (mine & (late == 0)),
            cycle_time=self.cycle_time.add(jnp.where(mine, tick - release, 0)),
            tardiness=self.tardiness.add(jnp.where(mine, late, 0)),
            weighted_tardiness=self.weighted_tardiness.add_product(
                jnp.where(mine, late, 0), weight
            ),
            lot_time=self.lot_time.add(jnp.where(happens, window.overlap(release, tick), 0)),
        )
