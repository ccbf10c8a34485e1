"""What a dispatching rule, or a policy, sees of the lots that wait."""

from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp

from . import draws
from .instance import NEVER, Instance


def per_group(instance: Instance, lots: Any, values: jax.Array, how: str, start: Any) -> jax.Array:
    """``[G]``: the "add" or "min" of `values` ``[N]`` over the lots at each group, from `start`."""
    # A scatter costs as much as there are lots; a table of groups by lots is four times slower
    # at 20 groups already.
    each = jnp.full(instance.num_groups, start, values.dtype).at[lots.group]
    return each.add(values, mode="drop") if how == "add" else each.min(values, mode="drop")


def once(x: jax.Array) -> jax.Array:
    """The same, computed once: XLA would compute it again in each of its uses.

    Fusion on CPU copies chains of operations into all that reads them, and a gather then repeats
    them for every element that it takes. It stops at a scatter.
    """
    if x.ndim == 0:
        return x
    return jnp.zeros_like(x).at[jnp.arange(x.shape[0])].set(x)


class Queue:
    """The lots, as the groups that dispatch now see them. Columns are computed when asked for.

    Args:
      instance, lots, tools: the fab, and what is where.
      times: ``[G]`` when each group dispatches.
      active: ``[G]`` whether it does.
      alone: whether only one group dispatches, so that other groups' queues may be looked at.
    """

    def __init__(
        self,
        instance: Instance,
        lots: Any,
        tools: Any,
        times: jax.Array,
        active: jax.Array,
        alone: bool,
    ) -> None:
        self.instance, self.lots, self.tools = instance, lots, tools
        self.times, self.active, self.alone = times, active, alone

    # Groups and lots.

    @cached_property
    def waiting(self) -> jax.Array:
        """``[N]`` bool: the lots that a group can choose from now."""
        return self.of_group(self.active, False) & (self.arrival <= self.now)

    @cached_property
    def idle(self) -> jax.Array:
        """``[G, T]`` bool: the tools that a group can choose from now."""
        return self.instance.tools & (self.tools.free <= self.times[:, None])

    def startable(self, at_least: Any = 0.0) -> jax.Array:
        """``[N]`` bool: the waiting lots whose batch is large enough to start.

        Args:
          at_least: the part of a full batch that is asked for, beyond the instance's minimum.
        """
        batches = self.instance.batches
        if batches is None:
            return self.waiting
        wanted = at_least * batches.maximum[self.lots.op].astype(jnp.float32)
        least = jnp.maximum(wanted, batches.minimum[self.lots.op].astype(jnp.float32))
        return self.waiting & ((self.family == 0) | (self.batchable >= least))

    def awaits(self, patience: Any) -> jax.Array:
        """``[N]`` bool: the lots whose batch had better wait for the next lot that could join it.

        That is where what it costs all who wait at the group, until that lot is expected, is less
        than what the lot gains by not waiting for the next tool, after Glassey and Weng 1991 and
        Fowler, Hogg and Phillips 1992. Another idle tool could take it at once. When a lot arrives
        is judged by mean times: one that should be there by now is not waited for, and the next
        tool is a batch's time over the number of tools away.

        Args:
          patience: how many times as large the cost may be as the gain.
        """
        instance, lots, batches = self.instance, self.lots, self.instance.batches
        if batches is None:
            return jnp.zeros_like(self.waiting)
        # What begins at this very tick may come before or after in the order of groups.
        sent, expected = lots.forecast
        known = (lots.ready > self.now) & (sent < self.now) & (expected > self.now)
        known = known & (lots.group < instance.num_groups)
        none = jnp.full(batches.families, NEVER, jnp.int32)
        soonest = none.at[self.family].min(jnp.where(known, expected, NEVER))[self.family]
        until = (soonest - self.now).astype(jnp.float32)
        tools = self.of_group(instance.tools.sum(1), 1).astype(jnp.float32)
        cost = self.queued.astype(jnp.float32) * until
        gain = self.work.astype(jnp.float32) / tools - until
        last = self.of_group(self.idle.sum(1), 0) == 1
        room = (self.family > 0) & (self.batchable < batches.maximum[lots.op])
        return room & last & (soonest < NEVER) & (cost < patience * gain)

    def of_group(self, values: jax.Array, leaving: Any) -> jax.Array:
        """``[N, ...]``: of `values` ``[G, ...]`` that of each lot's group, or `leaving`."""
        last = jnp.full((1, *values.shape[1:]), leaving, values.dtype)
        return jnp.concatenate([values, last])[self.lots.group]

    def total(self, values: jax.Array) -> jax.Array:
        """``[N]``: the sum of `values` ``[N]`` over the lots that wait at the same group."""
        return self.of_group(
            per_group(self.instance, self.lots, jnp.where(self.waiting, values, 0), "add", 0), 0
        )

    def mean(self, values: jax.Array) -> jax.Array:
        """``[N]`` float32: the mean of `values` over the lots that wait at the same group."""
        count = jnp.maximum(self.queued, 1)
        return self.total(values).astype(jnp.float32) / count.astype(jnp.float32)

    @cached_property
    def queued(self) -> jax.Array:
        """``[N]``: how many lots wait at the same group."""
        return self.total(jnp.ones_like(self.arrival))

    # Columns [N] to rank by.

    @cached_property
    def now(self) -> jax.Array:
        """The tick at which the lot's group dispatches."""
        return self.of_group(self.times, 0)

    @property
    def arrival(self) -> jax.Array:
        """When the lot came to its group."""
        return self.lots.ready

    @property
    def release(self) -> jax.Array:
        """When it came to the fab."""
        return self.lots.release

    @property
    def order(self) -> jax.Array:
        """Its place in the order of releases."""
        return self.lots.number

    @property
    def due(self) -> jax.Array:
        """When it should leave."""
        return self.lots.due

    @property
    def weight(self) -> jax.Array:
        """What it is worth, a whole number."""
        return self.lots.weight

    @cached_property
    def work(self) -> jax.Array:
        """Mean processing time of its operation."""
        return self.instance.work[self.lots.op]

    @cached_property
    def remaining(self) -> jax.Array:
        """Mean work left, this operation included."""
        return self.instance.remaining[self.lots.op]

    @cached_property
    def done(self) -> jax.Array:
        """Mean work of its route up to and including this operation."""
        return self.instance.done[self.lots.op]

    @cached_property
    def behind(self) -> jax.Array:
        """Operations of its route before this one."""
        return self.lots.op - self.instance.first[self.instance.product[self.lots.op]]

    @cached_property
    def left(self) -> jax.Array:
        """Operations left, this one included."""
        return self.instance.left[self.lots.op]

    @cached_property
    def operation_due(self) -> jax.Array:
        """When this operation should be done: release + flow factor * work up to its end."""
        return self.release + jnp.round(self.lots.factor * self.done).astype(jnp.int32)

    @cached_property
    def slack(self) -> jax.Array:
        """Ticks to spare if it never waited again."""
        return self.due - self.now - self.remaining

    @cached_property
    def setup(self) -> jax.Array:
        """Ticks of setup on the idle tool of its group that needs the fewest."""
        setups = self.instance.setups
        if setups is None:
            return jnp.zeros_like(self.arrival)
        # To each state [K, S], from what the tools of the group have.
        rows, states = setups.time.shape[:2]
        have, idle = self.tools.setup[setups.of], self.idle[setups.of]
        ticks = setups.time[jnp.arange(rows)[:, None], have]
        ticks = once(jnp.where(idle[..., None], ticks, NEVER).min(1).at[0].set(0).ravel())
        row = self.of_group(setups.row, 0)
        return ticks[row * states + setups.state[self.lots.op]]

    @cached_property
    def family(self) -> jax.Array:
        """Its batch family; 0 where it goes alone."""
        batches = self.instance.batches
        return jnp.zeros_like(self.arrival) if batches is None else batches.family[self.lots.op]

    @cached_property
    def batchable(self) -> jax.Array:
        """How many lots of its batch family wait; 1 where it goes alone."""
        batches = self.instance.batches
        if batches is None:
            return jnp.ones_like(self.arrival)
        counts = jnp.zeros(batches.families, jnp.int32).at[self.family].add(self.waiting)
        return jnp.where(self.family > 0, counts[self.family], 1)

    @cached_property
    def fullness(self) -> jax.Array:
        """The part of a full batch that waits, at most 1; 1 where it goes alone. float32."""
        batches = self.instance.batches
        if batches is None:
            return jnp.ones(self.arrival.shape, jnp.float32)
        maximum = batches.maximum[self.lots.op].astype(jnp.float32)
        full = jnp.minimum(self.batchable.astype(jnp.float32) / maximum, 1.0)
        return jnp.where(self.family == 0, 1.0, full)

    def of_batch(self, values: jax.Array) -> jax.Array:
        """``[N]`` float32: the sum of `values` ``[N]`` over the waiting lots of the batch family,
        over the largest batch; of a lot that goes alone its own."""
        batches = self.instance.batches
        if batches is None:
            return values
        maximum = batches.maximum[self.lots.op].astype(jnp.float32)
        sums = jnp.zeros(batches.families).at[self.family].add(jnp.where(self.waiting, values, 0))
        return jnp.where(self.family > 0, sums[self.family] / maximum, values)

    @cached_property
    def next_queue(self) -> jax.Array:
        """Mean work that waits where the lot goes next; 0 where it leaves.

        Raises:
          ValueError: in a rule whose key is not marked with `rules.looks_elsewhere`.
        """
        if not self.alone:
            raise ValueError("a key that uses next_queue must be marked with looks_elsewhere")
        now = jnp.where(self.active, self.times, 0).max()
        waits = jnp.where(self.arrival <= now, self.work, 0)
        work = per_group(self.instance, self.lots, waits, "add", 0)
        following = jnp.where(self.left > 1, self.lots.op + 1, self.lots.op)
        return jnp.where(self.left > 1, work[self.instance.group[following]], 0)

    @cached_property
    def random(self) -> jax.Array:
        """Random bits that belong to the lot and its operation, uint32."""
        lots = self.lots
        return draws.draw(lots.key, draws.RANK, lots.op, lots.returns).a


def best(queue: Queue, keys: tuple[jax.Array, ...], among: jax.Array) -> jax.Array:
    """``[G]``: the slot of the lot with the smallest keys at each group, N where there is none.

    Args:
      queue: the lots.
      keys: ``[N]`` each, in the order in which they decide; the order of release comes last.
      among: ``[N]`` bool, the lots to choose from.
    """
    for key in (*keys, queue.order):
        key, last = _sortable(key)
        least = per_group(queue.instance, queue.lots, jnp.where(among, key, last), "min", last)
        among = among & (key == queue.of_group(least, 0))
    slots = among.shape[0]
    slot = jnp.where(among, jnp.arange(slots), slots)
    return per_group(queue.instance, queue.lots, slot, "min", slots)


def first_of(queue: Queue, keys: tuple[jax.Array, ...], among: jax.Array) -> jax.Array:
    """``[N]`` bool: as `best`, of all the lots `among` which there must be one of."""
    for key in (*keys, queue.order):
        key, last = _sortable(key)
        among = among & (key == jnp.where(among, key, last).min())
    return among


def _sortable(key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """A key to rank by, NaN last, and a value that no key comes after."""
    if jnp.issubdtype(key.dtype, jnp.floating):
        last = jnp.asarray(jnp.inf, key.dtype)
        return jnp.where(jnp.isnan(key), last, key), last
    return key, jnp.asarray(jnp.iinfo(key.dtype).max, key.dtype)
