"""What a fab is: an instance, as a pytree of arrays.

Instances of the same shape stack, vmap and randomise. A feature that an instance does not use is
None, and costs nothing. Nobody fills these arrays by hand: `describe.build` makes them from a
description.

Shapes: G tool groups of at most T tools each; P products; O operations, the routes of all products
one after another; W shift windows. Times are integer ticks.
"""

import dataclasses
from collections.abc import Iterable
from typing import Any

import numpy as np
from flax import struct

from . import draws

Array = Any  # NumPy's where an instance is described, JAX's where it is simulated

# No time reaches this: what never happens. A run's horizon ends before LONGEST_RUN, and what
# starts before it ends before NEVER.
NEVER = 2_000_000_000
LONGEST_RUN = 1_900_000_000


@struct.dataclass
class Duration:
    """Durations: `mean` in ticks, `cv` = standard deviation / mean, `kind` of `draws.KINDS`."""

    mean: Array
    cv: Array
    kind: Array
    kinds: tuple[int, ...] = struct.field(pytree_node=False)  # those that occur

    @classmethod
    def of(cls, rows: Iterable[tuple[float, float, int]]) -> "Duration":
        """Of each row's mean, cv and kind."""
        means, cvs, kinds = zip(*rows, strict=True)
        return cls(
            mean=np.array(means, np.float32),
            cv=np.array(cvs, np.float32),
            kind=np.array(kinds, np.int32),
            kinds=tuple(sorted(set(kinds))),
        )


@struct.dataclass
class Setups:
    """Sequence-dependent setups, of K - 1 groups with at most S states, which each numbers itself.

    Attributes:
      state: ``[O]`` int32, what an operation needs; 0 where it needs none, which also leaves the
        tool as it is.
      time: ``[K, S, S]`` int32, ticks from one state to another; 0 in the first row.
      row: ``[G]`` int32, where in `time` each group is found; 0 for those without setups.
      of: ``[K]`` int32, the group that each row is of.
      initial: ``[G]`` int32, the state of each group's tools at the start.
    """

    state: Array
    time: Array
    row: Array
    of: Array
    initial: Array


@struct.dataclass
class Batches:
    """Operations that serve several lots at once.

    Attributes:
      family: ``[O]`` int32. Lots of one family may share a batch; 0 where there are no batches.
      minimum, maximum: ``[O]`` int32, lots; the same for all operations of a family.
      families: how many there are, family 0 included.
      largest: the largest maximum.
    """

    family: Array
    minimum: Array
    maximum: Array
    families: int = struct.field(pytree_node=False)
    largest: int = struct.field(pytree_node=False)


@struct.dataclass
class Breakdowns:
    """Failures that interrupt whatever a tool does; the work resumes where it stopped.

    Attributes:
      by_busy_time: ``[G]`` bool: whether the time to failure runs only while a tool works (setup
        included), or by the calendar, from the end of the last repair.
      fails: ``[G]`` bool: whether the group's tools fail at all.
      until, repair: ``[G]`` times to failure and to repair.
    """

    by_busy_time: Array
    fails: Array
    until: Duration
    repair: Duration


@struct.dataclass
class Maintenance:
    """Planned maintenance, which waits for the operation in progress.

    Attributes:
      period: ``[G]`` int32, ticks from one due date to the next; NEVER where there is none.
      first: ``[G, T]`` int32, the first due date of each tool.
      duration: ``[G]`` of the maintenance that the calendar asks for.
      pieces: ``[G]`` int32, lots after which a tool is maintained at once; 0 where it is not.
      piece_duration: ``[G]`` of the maintenance after so many lots.
    """

    period: Array
    first: Array
    duration: Duration
    pieces: Array
    piece_duration: Duration

    @classmethod
    def never(cls, tools: Array) -> "Maintenance":
        """Of groups ``[G, T]`` that have none."""
        groups = len(tools)
        nothing = Duration.of([(1.0, 0.0, draws.DETERMINISTIC)] * groups)
        return cls(
            period=np.full(groups, NEVER, np.int32),
            first=np.full(tools.shape, NEVER, np.int32),
            duration=nothing,
            pieces=np.zeros(groups, np.int32),
            piece_duration=nothing,
        )


@struct.dataclass
class Shifts:
    """When operations may start; one in progress is finished.

    Attributes:
      period: ``[]`` int32, ticks after which the calendar repeats.
      start, end: ``[G, W]`` int32, windows within the period, in order of time; an empty window
        (start = end = period) fills up the row.
    """

    period: Array
    start: Array
    end: Array


@struct.dataclass
class Rework:
    """Operations that are not always done once. Probabilities are kept to 16 bits.

    Attributes:
      probability: ``[O]`` float32: that a lot goes back after the operation.
      back_to: ``[O]`` int32, the operation it goes back to.
      sampled: ``[O]`` float32: the probability that a lot that comes to the operation is given it;
        it skips the operation otherwise.
      longest_skip: the longest sequence of operations that can be skipped at once.
    """

    probability: Array
    back_to: Array
    sampled: Array
    longest_skip: int = struct.field(pytree_node=False)


@struct.dataclass
class Renewal:
    """Releases product by product: `between` ``[P]`` two lots; the first after `first` ``[P]``
    ticks, or after one such time where that is negative."""

    between: Duration
    first: Array


@struct.dataclass
class Planned:
    """A given list of releases: `time` int32 and `product` int32 ``[R]``, in order of time."""

    time: Array
    product: Array


@struct.dataclass
class Conwip:
    """Constant work in process: each lot that leaves is replaced at once.

    `share` ``[P]`` float32: the cumulative shares of the products. Lots start spread over their
    routes where `spread` is true, at the first operation otherwise.
    """

    share: Array
    spread: bool = struct.field(pytree_node=False)


@struct.dataclass
class Orders:
    """What a lot is worth and when it is due: at release + factor * work of its route.

    A lot is hot with a probability; the factor is uniform in [low, high] and the weight a whole
    number uniform in [low, high], for hot lots the fixed ones.

    Attributes:
      factor_low, factor_high, hot_probability, hot_factor: ``[P]`` float32.
      weight_low, weight_high, hot_weight: ``[P]`` int32, at least 0 and below 2^15.
    """

    factor_low: Array
    factor_high: Array
    weight_low: Array
    weight_high: Array
    hot_probability: Array
    hot_factor: Array
    hot_weight: Array


@struct.dataclass
class Energy:
    """Power of one tool of each group ``[G]`` float32, in kW, by what it does."""

    processing: Array
    setup: Array
    idle: Array
    down: Array


@struct.dataclass
class Instance:
    """A fab.

    Attributes:
      tools: ``[G, T]`` bool, which tools exist.
      group: ``[O]`` int32, where each operation is done.
      product: ``[O]`` int32, whose operation it is.
      processing: ``[O]`` processing times.
      work: ``[O]`` int32, mean processing time of the operation.
      done: ``[O]`` int32, mean work of the route up to and including the operation.
      remaining: ``[O]`` int32, mean work of the route from the operation on.
      left: ``[O]`` int32, operations of the route from this one on.
      first: ``[P]`` int32, the first operation of each route.
      transport: ``[O]`` int32, ticks from the end of the operation to the next group, or None.
      releases: how lots come.
      orders: due dates and weights.
      slots: how many lots can be in the fab at once; for CONWIP, how many are.
    """

    tools: Array
    group: Array
    product: Array
    processing: Duration
    work: Array
    done: Array
    remaining: Array
    left: Array
    first: Array
    transport: Array | None
    releases: Renewal | Planned | Conwip
    orders: Orders
    setups: Setups | None
    batches: Batches | None
    breakdowns: Breakdowns | None
    maintenance: Maintenance | None
    shifts: Shifts | None
    rework: Rework | None
    energy: Energy | None
    slots: int = struct.field(pytree_node=False)

    @property
    def num_groups(self) -> int:
        return self.tools.shape[-2]

    @property
    def num_tools(self) -> int:
        """Tools per group, the widest group's."""
        return self.tools.shape[-1]

    @property
    def num_products(self) -> int:
        return self.first.shape[-1]


def stack(instances: list[Instance]) -> Instance:
    """Instances as a batch, for `jax.vmap`; the smaller are padded with what is never used, and
    those without maintenance have one that never comes where others have some.

    Raises:
      ValueError: where they differ in the other features they use, in the numbers of groups,
        products or slots, or in how lots are released.
    """
    if any(one.maintenance is not None for one in instances):
        instances = [
            dataclasses.replace(one, maintenance=one.maintenance or Maintenance.never(one.tools))
            for one in instances
        ]

    def merge(*parts: Any) -> Any:
        first: Any = parts[0]
        if first is None or isinstance(first, np.ndarray | np.generic):
            return _pad(parts)
        fields = {}
        for field in dataclasses.fields(first):
            values = [getattr(part, field.name) for part in parts]
            if field.metadata.get("pytree_node", True):
                fields[field.name] = merge(*values)
            elif field.name == "kinds":
                fields[field.name] = tuple(sorted(set().union(*values)))
            else:
                fields[field.name] = max(values)
        return first.replace(**fields)

    features = {
        tuple(type(getattr(one, f.name)).__name__ for f in dataclasses.fields(one))
        for one in instances
    }
    sizes = {(one.num_groups, one.num_products, one.slots) for one in instances}
    if len(features) != 1 or len(sizes) != 1:
        raise ValueError(
            "the instances differ in the features they use, or in groups, products or slots"
        )
    return merge(*instances)


def _pad(arrays: tuple[Any, ...]) -> Any:
    """Arrays as one, the shorter ones filled up with zeros."""
    if arrays[0] is None:
        return None
    arrays = tuple(map(np.asarray, arrays))
    shape = [max(sizes) for sizes in zip(*(x.shape for x in arrays), strict=True)]
    filled = []
    for x in arrays:
        missing = [(0, n - m) for n, m in zip(shape, x.shape, strict=True)]
        filled.append(np.pad(x, missing) if missing else x)
    return np.stack(filled)
