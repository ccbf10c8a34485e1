"""A second model of the fab, in SimPy: lots, operations, repairs and releases are processes.

It shares nothing with `envs.fab` but the instance, as NumPy arrays, and the random draws, which it
takes from `envs.fab.draws` by entity. Time advances from event to event; a group dispatches
whenever a lot arrives at it or a tool of it becomes free.

At one tick events happen by priority: what ends and arrives (SimPy's own priorities, 0 and 1),
releases in the order of slots (2), downtimes that come due (3) and begin (4), dispatches (5 and
the group's number).
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import simpy

from envs.fab import draws
from envs.fab.instance import NEVER, Conwip, Duration, Instance, Planned, Renewal

RELEASE, DUE, DOWN, DISPATCH = 2, 3, 4, 5
f32 = np.float32
RETURNS = 40  # rework per lot that the tables of draws foresee
EVENTS = 400  # downtimes per tool
GAPS = 20_000  # releases per product


# Draws are tabled by functions of this module, so that fabs of one shape share what is compiled.


@partial(jax.jit, static_argnames=("stream", "kinds"))
def _events(words: draws.Words, stream: int, mean: Any, kind: Any, cv: Any, kinds: Any) -> Any:
    """``[tools, EVENTS]`` ticks of the events of each tool."""
    tool, number = jnp.arange(len(mean))[:, None], jnp.arange(EVENTS)[None]
    bits = draws.draw(words, stream, tool, number)
    return draws.duration(bits, mean[:, None], kind[:, None], cv[:, None], kinds)


@partial(jax.jit, static_argnames="kinds")
def _gaps(words: draws.Words, product: Any, mean: Any, kind: Any, cv: Any, kinds: Any) -> Any:
    """``[GAPS]`` ticks between two releases of a product."""
    bits = draws.draw(words, draws.RELEASE, jnp.arange(GAPS), product)
    mean, kind, cv = (jnp.full(GAPS, x) for x in (mean, kind, cv))
    return draws.duration(bits, mean, kind, cv, kinds)


@partial(jax.jit, static_argnames="kinds")
def _of_lot(words: draws.Words, mean: Any, kind: Any, cv: Any, kinds: Any) -> Any:
    """All that is drawn for a lot; by operation and returns ``[O, RETURNS]`` where it matters."""
    op, returns = jnp.arange(len(mean))[:, None], jnp.arange(RETURNS)[None]
    bits = draws.draw(words, draws.PROCESSING, op, returns)
    worth = draws.draw(words, draws.ORDER, 0)
    return (
        draws.duration(bits, mean[:, None], kind[:, None], cv[:, None], kinds),
        bits.b,
        draws.uniform(worth.a),
        draws.uniform(worth.b),
        draws.uniform(draws.draw(words, draws.HOT, 0).a),
        draws.uniform(draws.draw(words, draws.RELEASE, 0).a),
        draws.draw(words, draws.RANK, op, returns).a,
    )


_key_of = jax.jit(lambda words, a, b: draws.draw(words, draws.LOT, a, b))


class Dispatch(NamedTuple):
    """One lot that starts: its number, operation, group, tool; ticks of start, setup and end."""

    number: int
    op: int
    group: int
    tool: int
    start: int
    setup: int
    end: int


class Lot:
    def __init__(self, **values: Any) -> None:
        self.__dict__.update(values)


class Tool:
    """One tool: what it does, what is pending, and what it has done as (state, start, end)."""

    def __init__(self, group: int, index: int, state: int) -> None:
        self.group, self.index, self.setup = group, index, state
        self.operation: Any = None
        self.down = False
        # (due, rank, what gives its length when it begins, what it triggers when it is over)
        self.pending: list[tuple[int, int, Callable[[], int], simpy.Event]] = []
        self.past: list[tuple[str, int, int]] = []
        self.pieces = self.services = self.failures = 0
        self.work_left = 0

    @property
    def idle(self) -> bool:
        return self.operation is None and not self.down


class Fab:
    """A fab to run until `end`.

    Args:
      instance: arrays of one fab.
      key: its typed key.
      keys: functions ``(lot, view) -> number`` that rank lots, smaller first.
      complete_first, at_least, patience: the batching policy.
    """

    def __init__(
        self,
        instance: Instance,
        key: jax.Array,
        keys: list[Callable[[Any, Any], Any]],
        complete_first: bool,
        at_least: float,
        end: int,
        patience: float = 0.0,
    ) -> None:
        self.fab = jax.tree.map(np.asarray, instance)
        self.keys, self.end = keys, end
        self.complete_first, self.at_least, self.patience = complete_first, at_least, patience
        self.words = draws.words(key)
        self.env = simpy.Environment()
        self.groups, self.widest = self.fab.tools.shape
        initial = np.zeros(self.groups, int) if self.fab.setups is None else self.fab.setups.initial
        self.tools = [
            [Tool(g, t, int(initial[g])) for t in range(self.widest) if self.fab.tools[g, t]]
            for g in range(self.groups)
        ]
        self.queues: list[list[Lot]] = [[] for _ in range(self.groups)]
        self.asked = [False] * self.groups
        self.dispatches: list[Dispatch] = []
        self.lots: list[Lot] = []
        self._leaving: list[tuple[int, int]] = []
        self._tables()
        for row in self.tools:
            for tool in row:
                self._start_tool(tool)
        self._start_releases()

    def run(self) -> None:
        self.env.run(until=self.end)

    # Draws.

    def _tables(self) -> None:
        fab = self.fab

        def table(stream: int, times: Duration) -> np.ndarray:
            rows = [np.repeat(x, self.widest) for x in (times.mean, times.kind, times.cv)]
            return np.asarray(_events(self.words, stream, *rows, times.kinds))

        if fab.breakdowns is not None:
            self.until = table(draws.BREAKDOWN, fab.breakdowns.until)
            self.repair = table(draws.REPAIR, fab.breakdowns.repair)
        if fab.maintenance is not None:
            self.service = table(draws.SERVICE, fab.maintenance.duration)
            self.piece_service = table(draws.PIECES, fab.maintenance.piece_duration)
        times = fab.processing
        self.of_lot = lambda key: _of_lot(key, times.mean, times.kind, times.cv, times.kinds)
        self.key_of = lambda a, b: _key_of(self.words, a, b)

    # Releases.

    def _make_lot(self, key: Any, release: int, product: int | None) -> Lot:
        fab, orders = self.fab, self.fab.orders
        times, luck, u_factor, u_weight, u_hot, u_product, rank = map(np.asarray, self.of_lot(key))
        if product is None:
            product = int(np.searchsorted(fab.releases.share, u_product, side="right"))
            product = min(product, len(fab.first) - 1)
        low, high = orders.factor_low[product], orders.factor_high[product]
        factor = f32(low + (high - low) * u_factor)
        light, heavy = int(orders.weight_low[product]), int(orders.weight_high[product])
        weight = light + min(int(f32(heavy - light + 1) * u_weight), heavy - light)
        if u_hot < orders.hot_probability[product]:
            factor, weight = f32(orders.hot_factor[product]), int(orders.hot_weight[product])
        op = int(fab.first[product])
        work = int(fab.done[op] + fab.remaining[op] - fab.work[op])
        lot = Lot(
            number=len(self.lots), product=product, op=op, returns=0, release=release,
            due=release + int(np.round(f32(factor * f32(work)))), weight=weight, factor=factor,
            times=times, luck=luck, rank=rank, arrival=0, left=None, heading=None,
        )  # fmt: skip
        self.lots.append(lot)
        return lot

    def _start_releases(self) -> None:
        source = self.fab.releases
        if isinstance(source, Conwip):
            for slot in range(self.fab.slots):
                self._release_card(slot, 1, start=True)
            return
        if isinstance(source, Planned):
            plan = zip(source.time, source.product, strict=True)
            rows = [(int(t), int(p), n) for n, (t, p) in enumerate(plan)]
        else:
            assert isinstance(source, Renewal)
            rows = []
            b = source.between
            for p in range(len(self.fab.first)):
                gaps = _gaps(self.words, p, b.mean[p], b.kind[p], b.cv[p], b.kinds)
                gaps = np.asarray(gaps).astype(np.int64)
                if source.first[p] >= 0:
                    gaps[0] = source.first[p]
                rows += [(int(t), p, n) for n, t in enumerate(np.cumsum(gaps)) if t < self.end]
                assert np.cumsum(gaps)[-1] >= self.end, "more releases than the table has"
        # A list keeps its order; of products that come at once the first goes first.
        rows.sort(key=lambda row: row[0] if isinstance(source, Planned) else row[:2])
        for time, product, number in rows:
            if time < self.end:
                lot = self._make_lot(self.key_of(number, product), time, product)
                self._at(time, RELEASE, partial(self._begin, lot))

    def _release_card(self, slot: int, cycle: int, start: bool = False) -> None:
        """The card's next lot: released now, and a new one when it leaves."""
        fab = self.fab
        lot = self._make_lot(self.key_of(slot, cycle), self.env.now, None)
        if start and fab.releases.spread:
            part = f32(slot) / f32(fab.slots)
            op = lot.op + math.floor(f32(part * f32(fab.left[lot.op])))
            age = int(np.round(f32(lot.factor * f32(fab.done[op] - fab.work[op]))))
            lot.op, lot.release, lot.due = op, lot.release - age, lot.due - age
        lot.card = (slot, cycle)
        self._begin(lot)

    def _begin(self, lot: Lot) -> None:
        self.env.process(self._lot(lot))

    # Lots.

    def _lot(self, lot: Lot) -> Any:
        fab, env = self.fab, self.env
        while True:
            group = int(fab.group[lot.op])
            lot.arrival, lot.done, lot.heading = env.now, env.event(), None
            self.queues[group].append(lot)
            self._ask(group)
            yield lot.done
            op = lot.op
            following, lot.returns, leaves = self._after(lot)
            if leaves:
                lot.left = env.now
                if isinstance(fab.releases, Conwip):
                    self._leaving.append(lot.card)
                    self._at(env.now, RELEASE, self._replace_all)
                return
            if fab.transport is not None and fab.transport[op] > 0:
                yield env.timeout(int(fab.transport[op]))
            lot.op = following

    def _after(self, lot: Lot) -> tuple[int, int, bool]:
        """What a lot does after its operation: which, how often it was sent back by then, and
        whether it leaves instead."""
        fab, op, returns = self.fab, lot.op, lot.returns
        following, leaves = op + 1, bool(fab.left[op] == 1)
        if fab.rework is not None:
            chance = lambda bits: (f32(bits) + f32(0.5)) * f32(2.0**-16)  # noqa: E731
            luck = int(lot.luck[op, returns])
            if chance(luck & 0xFFFF) < fab.rework.probability[op]:
                returns += 1
                following, leaves = int(fab.rework.back_to[op]), False
            while not leaves:
                luck = int(lot.luck[following, returns])
                if chance(luck >> 16) < fab.rework.sampled[following]:
                    break
                leaves = bool(fab.left[following] == 1)
                following += 1
        return following, returns, leaves

    def _replace_all(self) -> None:
        """Cards of the lots that left at this tick, in the order of their slots."""
        cards, self._leaving = sorted(self._leaving), []
        for slot, cycle in cards:
            self._release_card(slot, cycle + 1)

    # Dispatching.

    def _ask(self, group: int) -> None:
        if not self.asked[group]:
            self.asked[group] = True
            self._at(self.env.now, DISPATCH + group, partial(self._dispatch, group))

    def _dispatch(self, group: int) -> None:
        self.asked[group] = False
        now = self.env.now
        shifts = self.fab.shifts
        if shifts is not None:
            wait = self._until_open(group, now)
            if wait > 0:
                if self.queues[group]:
                    self._at(now + wait, DUE, partial(self._ask, group))
                return
        while True:
            idle = [tool for tool in self.tools[group] if tool.idle]
            if not idle or not self.queues[group]:
                return
            batch = self._choose(group, idle)
            if not batch:
                return
            needed = self._needs(batch[0])
            tool = min(idle, key=lambda tool: (self._setup(tool, needed), tool.index))
            setup = self._setup(tool, needed)
            for lot in batch:
                self.queues[group].remove(lot)
            tool.operation = self.env.process(self._operation(tool, batch, setup))

    def _until_open(self, group: int, now: int) -> int:
        shifts = self.fab.shifts
        for wait in range(int(shifts.period) + 1):
            phase = (now + wait) % int(shifts.period)
            windows = zip(shifts.start[group], shifts.end[group], strict=True)
            if any(a <= phase < b for a, b in windows):
                return wait
        raise AssertionError("no shift")

    def _needs(self, lot: Lot) -> int:
        return 0 if self.fab.setups is None else int(self.fab.setups.state[lot.op])

    def _setup(self, tool: Tool, needed: int) -> int:
        setups = self.fab.setups
        if setups is None:
            return 0
        return int(setups.time[setups.row[tool.group], tool.setup, needed])

    def _choose(self, group: int, idle: list[Tool]) -> list[Lot]:
        """The batch to start, its leader first; empty to wait."""
        batches, queue = self.fab.batches, self.queues[group]
        family = lambda lot: 0 if batches is None else int(batches.family[lot.op])  # noqa: E731
        sizes: dict[int, int] = {}
        for lot in queue:
            sizes[family(lot)] = sizes.get(family(lot), 0) + 1
        count = lambda lot: sizes[family(lot)] if family(lot) else 1  # noqa: E731
        view = View(self, queue, idle, count)
        # As the queue shows them: a key may depend on all of it.
        ranks = {lot.number: [key(lot, view) for key in self.keys] for lot in queue}
        own = lambda lot: (*ranks[lot.number], lot.number)  # noqa: E731
        if batches is None:
            return [min(queue, key=own)]
        maximum = lambda lot: int(batches.maximum[lot.op])  # noqa: E731

        def enough(lot: Lot) -> bool:
            least = max(f32(self.at_least) * f32(maximum(lot)), f32(batches.minimum[lot.op]))
            return family(lot) == 0 or count(lot) >= least

        def first(lot: Lot) -> Any:
            full = min(f32(count(lot)) / f32(maximum(lot)), f32(1))
            if not self.complete_first:
                return 0
            return -full if family(lot) else f32(-1)

        def awaits(lot: Lot) -> bool:
            if not family(lot) or len(idle) > 1 or count(lot) >= maximum(lot):
                return False
            now = self.env.now
            coming = [
                other.expected - now
                for other in self.lots
                if other.heading is not None
                and batches.family[other.heading] == family(lot)
                and other.sent < now < other.expected
            ]
            if not coming:
                return False
            cost = f32(len(queue)) * f32(min(coming))
            gain = f32(view.work(lot)) / f32(len(self.tools[group])) - f32(min(coming))
            return bool(cost < f32(self.patience) * gain)

        able = [lot for lot in queue if enough(lot) and not awaits(lot)]
        if not able:
            return []
        leader = min(able, key=lambda lot: (first(lot), *own(lot)))
        if family(leader) == 0:
            return [leader]
        others = [lot for lot in queue if family(lot) == family(leader) and lot is not leader]
        return [leader, *sorted(others, key=own)[: maximum(leader) - 1]]

    # Tools.

    def _operation(self, tool: Tool, batch: list[Lot], setup: int) -> Any:
        env, fab = self.env, self.fab
        start = env.now
        needed = self._needs(batch[0])
        if needed:
            tool.setup = needed
        leader = batch[0]
        busy = fab.breakdowns is not None and bool(fab.breakdowns.by_busy_time[tool.group])
        busy = busy and bool(fab.breakdowns.fails[tool.group])
        ops = [lot.op for lot in batch]
        for lot in batch:
            following, _, leaves = self._after(lot)
            lot.heading = None if leaves else following
            lot.sent, lot.expected = start, start + setup + int(fab.work[leader.op])
            if fab.transport is not None:
                lot.expected += int(fab.transport[lot.op])
        for state, work in (
            ("setup", setup),
            ("processing", int(leader.times[leader.op, leader.returns])),
        ):
            left = work
            while left > 0:
                began = env.now
                stretch = min(left, tool.work_left) if busy and tool.work_left < left else left
                breaks = busy and tool.work_left < left
                try:
                    if stretch:
                        yield env.timeout(stretch)
                except simpy.Interrupt:
                    breaks = True
                done = env.now - began
                left -= done
                if busy:
                    tool.work_left -= done
                if done:
                    tool.past.append((state, began, env.now))
                if breaks:
                    began, number = env.now, tool.failures
                    tool.failures += 1
                    row = tool.group * self.widest + tool.index
                    yield env.timeout(int(self.repair[row, number]))
                    tool.past.append(("down", began, env.now))
                    if busy:
                        tool.work_left = int(self.until[row, number + 1])
                    else:
                        tool.repaired.succeed()
        for lot, op in zip(batch, ops, strict=True):
            record = (lot.number, op, tool.group, tool.index, start, setup, env.now)
            self.dispatches.append(Dispatch(*record))
            lot.done.succeed()
        tool.operation = None
        tool.pieces += len(batch)
        plan = fab.maintenance
        if plan is not None and 0 < plan.pieces[tool.group] <= tool.pieces:
            tool.pieces = 0
            row = tool.group * self.widest + tool.index
            length = int(self.piece_service[row, tool.services])
            tool.services += 1
            env.process(self._downtime(tool, length, env.event()))
        self._freed(tool)

    def _freed(self, tool: Tool) -> None:
        if tool.idle:
            self._at(self.env.now, DOWN, partial(self._check, tool))
            self._ask(tool.group)

    def _downtime(self, tool: Tool, length: int, over: simpy.Event) -> Any:
        tool.down = True
        began = self.env.now
        yield self.env.timeout(length)
        tool.past.append(("down", began, self.env.now))
        tool.down = False
        over.succeed()
        self._freed(tool)

    def _check(self, tool: Tool) -> None:
        """Begins the downtime that has been due for longest, where the tool is idle."""
        if tool.idle and tool.pending:
            first = min(tool.pending, key=lambda entry: entry[:2])
            tool.pending.remove(first)
            tool.down = True
            self.env.process(self._downtime(tool, first[2](), first[3]))

    def _fail(self, tool: Tool, row: int) -> int:
        tool.failures += 1
        return int(self.repair[row, tool.failures - 1])

    def _serve(self, tool: Tool, row: int) -> int:
        tool.services += 1
        return int(self.service[row, tool.services - 1])

    def _start_tool(self, tool: Tool) -> None:
        fab = self.fab
        row = tool.group * self.widest + tool.index
        if fab.breakdowns is not None and fab.breakdowns.fails[tool.group]:
            if fab.breakdowns.by_busy_time[tool.group]:
                tool.work_left = int(self.until[row, 0])
            else:
                self.env.process(self._calendar_failures(tool, row))
        if fab.maintenance is not None and fab.maintenance.period[tool.group] < NEVER:
            self.env.process(self._calendar_services(tool, row))

    def _calendar_failures(self, tool: Tool, row: int) -> Any:
        number = 0
        due = int(self.until[row, 0])
        while True:
            yield self._event(due - self.env.now, DUE)
            if tool.operation is not None:
                tool.repaired = self.env.event()
                tool.operation.interrupt()
                yield tool.repaired
            else:
                over = self.env.event()
                tool.pending.append((due, 0, partial(self._fail, tool, row), over))
                self._at(self.env.now, DOWN, partial(self._check, tool))
                yield over
            number += 1
            due = self.env.now + int(self.until[row, number])

    def _calendar_services(self, tool: Tool, row: int) -> Any:
        plan = self.fab.maintenance
        due = int(plan.first[tool.group, tool.index])
        while True:
            if due > self.env.now:
                yield self._event(due - self.env.now, DUE)
            over = self.env.event()
            tool.pending.append((due, 1, partial(self._serve, tool, row), over))
            self._at(self.env.now, DOWN, partial(self._check, tool))
            yield over
            due += int(plan.period[tool.group])

    # Events.

    def _event(self, delay: int, priority: int) -> simpy.Event:
        event = simpy.Event(self.env)
        event._ok, event._value = True, None
        self.env.schedule(event, priority=priority, delay=delay)
        return event

    def _at(self, time: int, priority: int, call: Callable[[], None]) -> None:
        event = self._event(time - self.env.now, priority)
        event.callbacks.append(lambda _: call())


class View:
    """What a key sees beside the lot: the queue, and the time."""

    def __init__(
        self, fab: Fab, queue: list[Lot], idle: list[Tool], count: Callable[[Lot], int]
    ) -> None:
        self.fab, self.queue, self.idle, self.count = fab, queue, idle, count
        self.now = fab.env.now

    def work(self, lot: Lot) -> int:
        return int(self.fab.fab.work[lot.op])

    def remaining(self, lot: Lot) -> int:
        return int(self.fab.fab.remaining[lot.op])

    def done(self, lot: Lot) -> int:
        return int(self.fab.fab.done[lot.op])

    def left(self, lot: Lot) -> int:
        return int(self.fab.fab.left[lot.op])

    def setup(self, lot: Lot) -> int:
        return min(self.fab._setup(tool, self.fab._needs(lot)) for tool in self.idle)

    def operation_due(self, lot: Lot) -> int:
        return lot.release + int(np.round(f32(lot.factor * f32(self.done(lot)))))

    def slack(self, lot: Lot) -> int:
        return lot.due - self.now - self.remaining(lot)

    def mean(self, of: Callable[[Lot], int]) -> Any:
        return ratio(sum(of(lot) for lot in self.queue), len(self.queue))

    def next_queue(self, lot: Lot) -> int:
        if self.left(lot) == 1:
            return 0
        queue = self.fab.queues[int(self.fab.fab.group[lot.op + 1])]
        return sum(self.work(other) for other in queue)


def ratio(x: Any, y: Any) -> Any:
    with np.errstate(all="ignore"):
        return f32(x) / f32(y)


def times(factor: float, x: int) -> int:
    return int(np.round(f32(factor) * f32(x)))


def _atc(k: float) -> Callable[[Lot, View], Any]:
    def key(lot: Lot, v: View) -> Any:
        spare = max(v.operation_due(lot) - v.now - v.work(lot), 0)
        urgency = ratio(spare, f32(k) * v.mean(v.work))
        with np.errstate(all="ignore"):
            return urgency - np.log(ratio(lot.weight, v.work(lot)))

    return key


def _atcs(k1: float, k2: float) -> Callable[[Lot, View], Any]:
    def key(lot: Lot, v: View) -> Any:
        share = ratio(v.setup(lot), f32(k2) * v.mean(v.setup)) if v.setup(lot) > 0 else f32(0)
        return _atc(k1)(lot, v) + share

    return key


def _batcs(k1: float, k2: float, power: float) -> Callable[[Lot, View], Any]:
    def key(lot: Lot, v: View) -> Any:
        batches = v.fab.fab.batches
        full = f32(1)
        if batches is not None and batches.family[lot.op] > 0:
            full = min(ratio(v.count(lot), batches.maximum[lot.op]), f32(1))
        return _atcs(k1, k2)(lot, v) - f32(power) * np.log(full)

    return key


def _evolved(nodes: int, ticks: int) -> Callable[[Lot, View], Any]:
    """The formulas in tree form, as published: larger is better, so they are negated."""

    def key(lot: Lot, v: View) -> Any:
        w, bf = f32(lot.weight), f32(v.count(lot))
        rpt, sl = ratio(v.remaining(lot), ticks), ratio(v.slack(lot), ticks)
        s, ttd = ratio(v.setup(lot), ticks), ratio(lot.due - v.now, ticks)
        with np.errstate(all="ignore"):
            if nodes == 16:
                return -(rpt / sl - s + bf * (w if rpt - max(f32(1), ttd) >= 0 else bf))
            condition = max(f32(1), rpt) - max(rpt / sl, sl)
            return -(rpt / sl + bf * (w if condition >= 0 else bf) - s)

    return key


KEYS: dict[str, Callable[[Lot, View], Any]] = {
    "setup": lambda lot, v: v.setup(lot),
    "weight": lambda lot, v: -lot.weight,
    "FIFO": lambda lot, v: lot.arrival,
    "LIFO": lambda lot, v: -lot.arrival,
    "SPT": lambda lot, v: v.work(lot),
    "LPT": lambda lot, v: -v.work(lot),
    "EDD": lambda lot, v: lot.due,
    "ODD": lambda lot, v: v.operation_due(lot),
    "CR": lambda lot, v: ratio(lot.due - v.now, v.remaining(lot)),
    "slack": lambda lot, v: v.slack(lot),
    "S/RO": lambda lot, v: ratio(v.slack(lot), v.left(lot)),
    "LWKR": lambda lot, v: v.remaining(lot),
    "MWKR": lambda lot, v: -v.remaining(lot),
    "MOPNR": lambda lot, v: -v.left(lot),
    "FDD/MWKR": lambda lot, v: ratio(v.done(lot), v.remaining(lot)),
    "WSPT": lambda lot, v: ratio(v.work(lot), lot.weight),
    "MOD": lambda lot, v: max(v.operation_due(lot), v.now + v.work(lot)),
    "WMOD": lambda lot, v: ratio(max(v.operation_due(lot) - v.now, v.work(lot)), lot.weight),
    "WMDD": lambda lot, v: ratio(max(lot.due - v.now, v.remaining(lot)), lot.weight),
    "ATC(2)": _atc(2.0),
    "ATCS(2,0.5)": _atcs(2.0, 0.5),
    "BATCS(2,0.5,2)": _batcs(2.0, 0.5, 2.0),
    "FBFS": lambda lot, v: lot.op - int(v.fab.fab.first[lot.product]),
    "LBFS": lambda lot, v: v.left(lot),
    "FSVL(2)": lambda lot, v: lot.due - times(2, v.remaining(lot)),
    "FSVCT(2)": lambda lot, v: lot.release - times(2, v.remaining(lot)),
    "FSMCT(50,2)": lambda lot, v: times(50, lot.number) - times(2, v.remaining(lot)),
    "PT+WINQ": lambda lot, v: v.work(lot) + v.next_queue(lot),
    "random": lambda lot, v: int(lot.rank[lot.op, lot.returns]),
    "evolved16(10)": _evolved(16, 10),
    "evolved20(10)": _evolved(20, 10),
}


def integrals(fab: Fab, start: int) -> dict[str, np.ndarray]:
    """Ticks in ``[start, end)`` that each group's tools spent in each state, from their past."""
    out = {state: np.zeros(fab.groups, np.int64) for state in ("setup", "processing", "down")}
    for row in fab.tools:
        for tool in row:
            for state, began, ended in tool.past:
                inside = max(0, min(ended, fab.end) - max(began, start))
                out[state][tool.group] += inside
    return out
