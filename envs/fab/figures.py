"""What is measured, exactly: sums over lots and tools of the time they spend in a window."""

from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .instance import Instance
from .wide import Wide

if TYPE_CHECKING:
    from .describe import Plan


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


def measure(plan: "Plan", state: Any) -> dict[str, np.ndarray]:
    """The figures of finished runs, on the host.

    Args:
      plan: the fab.
      state: of B fabs, at the end of their windows.

    Returns:
      Arrays ``[B]`` unless said otherwise, times in the plan's unit: ``finished``, ``on_time``
      (fraction), ``cycle_time``, ``flow_factor``, ``tardiness``, ``weighted_tardiness`` (means over
      the lots that left; NaN where none did), the same by product as ``product_...`` ``[B, P]``;
      ``wip`` (mean lots in the fab), ``lots_per_day``, ``moves_per_day``; ``processing``,
      ``setup``, ``down``, ``idle`` (parts of the tools' time ``[B, G]``), ``utilisation`` (part of
      all tools' time in processing); ``energy_per_lot`` (kWh).
    """
    figures, window, lots = state.figures, state.window, state.lots
    instance = plan.instance
    start, end = (np.asarray(x, np.float64) for x in window)
    ticks = np.maximum(end - start, 1)
    unit = 1 / plan.ticks
    left = np.asarray(figures.finished, np.float64)
    work = np.asarray(instance.done + instance.remaining - instance.work)[instance.first]

    def sums(wide: Wide) -> np.ndarray:
        return wide.numpy() * unit

    out: dict[str, np.ndarray] = {}
    with np.errstate(divide="ignore", invalid="ignore"):
        for name, total in (
            ("on_time", np.asarray(figures.on_time, np.float64)),
            ("cycle_time", sums(figures.cycle_time)),
            ("flow_factor", sums(figures.cycle_time) / (work * unit)),
            ("tardiness", sums(figures.tardiness)),
            ("weighted_tardiness", sums(figures.weighted_tardiness)),
        ):
            out[name] = total.sum(-1) / left.sum(-1)
            out[f"product_{name}"] = total / left
    days = ticks * plan.seconds / 86400
    # Lots still in the fab count as well.
    release = np.asarray(lots.release, np.float64)
    here = end[:, None] - np.maximum(release, start[:, None])
    lot_time = figures.lot_time.numpy() + np.maximum(here, 0).sum(-1)
    tools = np.asarray(instance.tools).sum(-1)
    whole = tools * ticks[:, None]
    parts = {
        name: getattr(figures, name).numpy() / whole for name in ("processing", "setup", "down")
    }
    parts["idle"] = 1 - sum(parts.values())
    out |= {
        "finished": left.sum(-1),
        "product_finished": left,
        "wip": lot_time / ticks,
        "lots_per_day": left.sum(-1) / days,
        "moves_per_day": np.asarray(figures.moves, np.float64).sum(-1) / days,
        **parts,
        "utilisation": (parts["processing"] * tools).sum(-1) / tools.sum(),
    }
    if instance.energy is not None:
        power = sum(
            parts[name] * tools * np.asarray(getattr(instance.energy, name)) for name in parts
        )
        with np.errstate(divide="ignore"):
            out["energy_per_lot"] = power.sum(-1) * days * 24 / left.sum(-1)
    return out
