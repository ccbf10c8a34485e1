"""Simulates a fab under a rule, and reads what happened in one of its replications.

All replications run at once, in chunks of steps between which the host shows how far they are. A
chunk also hands over all that moved in replication 0, from which the pictures are drawn, and the
cycle time of every lot of every replication.
"""

import dataclasses
import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from rlax_lab.errors import InputError
from rlax_lab.packages import ours

Ints = NDArray[np.int64]

# Steps between two looks at how far the replications are; fewer where a fab has many slots, so
# that what a chunk hands over stays within some tens of MB.
_CHUNK = 256
_CELLS = 2**19


class Trace(NamedTuple):
    """What happened in replication 0 from tick 0 on: whole numbers, times in ticks.

    Attributes:
      group, tool, op: ``[D]`` of each dispatch; `op` is the operation of the lot ranked first.
      start, setup_end, end: ``[D]``, repairs included.
      setup, processing, down: ``[D]`` ticks of each, which together are ``end - start``. Several
        failures in one operation count as one at the first of them.
      moved, lot, lot_op, arrival: ``[M]`` the lots that were dispatched: the number of the
        dispatch, which members of a batch share; of the lot; of its operation; when it arrives at
        its next group, or leaves.
      down_group, down_tool, down_start, down_end: ``[K]`` when tools were down.
      product, release, exit: ``[L]`` of every lot by its number; `exit` is NEVER for those that
        did not leave.
      last: the tick at which the run ended.
    """

    group: Ints
    tool: Ints
    op: Ints
    start: Ints
    setup_end: Ints
    end: Ints
    setup: Ints
    processing: Ints
    down: Ints
    moved: Ints
    lot: Ints
    lot_op: Ints
    arrival: Ints
    down_group: Ints
    down_tool: Ints
    down_start: Ints
    down_end: Ints
    product: Ints
    release: Ints
    exit: Ints
    last: int


class Result(NamedTuple):
    """A finished simulation of B replications.

    Attributes:
      rule: its name.
      figures: `figures.measure`'s, with ``makespan`` ``[B]`` where the run went on until all lots
        had left.
      start, end: ticks ``[B]`` of the window that the figures were taken in.
      left_replication, left_product, cycle_time, tardiness: of every lot that left in the window;
        ticks.
      dispatches: of all replications.
      seconds, compile_seconds: wall time of the simulation, and of compiling it before.
      trace: of replication 0.
    """

    rule: str
    figures: dict[str, NDArray[np.float64]]
    start: Ints
    end: Ints
    left_replication: Ints
    left_product: Ints
    cycle_time: Ints
    tardiness: Ints
    dispatches: int
    seconds: float
    compile_seconds: float
    trace: Trace


class Standing(NamedTuple):
    """How far a simulation is: `done` of `total`, in ticks (of the slowest replication), or lots
    that left where it runs until all have; the dispatches of all replications; wall seconds."""

    done: float
    total: float
    dispatches: int
    seconds: float


def days_by_default(plan: Any) -> float | None:
    """Simulated days that say something about a fab; None for a list of releases, which ends.

    Twenty times the longest route's work, and no less than 20 000 operations.
    """
    instance, modules = plan.instance, ours("fab.instance")
    if isinstance(instance.releases, modules.Planned):
        return None
    first = np.asarray(instance.first)
    work, lengths = (np.asarray(x, np.float64)[first] for x in (instance.remaining, instance.left))
    if isinstance(instance.releases, modules.Conwip):
        shares = np.diff(instance.releases.share, prepend=0.0)
        # The pace of the bottleneck, or that of lots which never wait.
        load = np.zeros(instance.num_groups)
        most = 1 if instance.batches is None else instance.batches.maximum
        np.add.at(load, instance.group, shares[instance.product] * instance.work / most)
        pace = min(1 / (load / instance.tools.sum(1)).max(), instance.slots / (shares @ work))
        rates = pace * shares
    else:
        rates = 1 / np.asarray(instance.releases.between.mean, np.float64)
    ticks = max(20 * work.max(), 20_000 / (rates @ lengths))
    days = min(ticks, modules.LONGEST_RUN / 2) * plan.seconds / 86400
    unit = 10.0 ** math.floor(math.log10(days))
    return float(f"{math.ceil(days / unit) * unit:.6g}")


def simulate(
    plan: Any,
    rule: str,
    replications: int,
    days: float | None,
    warmup: float,
    seed: int,
    report: Callable[[Standing], None] = lambda _: None,
    decider: Any = None,
) -> Result:
    """Runs a fab under a rule.

    Args:
      plan: the fab.
      rule: its name, which `rules.parse` knows.
      replications: how many fabs with random numbers of their own.
      days: where the run ends; None goes on until every lot of a list has left.
      warmup: days at the start that figures leave out.
      seed: of the replications; equal seeds give equal arrivals, durations and failures, whatever
        the rule.
      report: called between chunks.
      decider: a `Rule` that `rules.parse` does not know by that name, as a trained policy.

    Raises:
      InputError: the fab has too few slots, or lots that never leave.
    """
    day = 86400 / plan.seconds
    longest = ours("fab.instance").LONGEST_RUN
    start = np.full(replications, round(warmup * day), np.int32)
    end = np.full(replications, longest if days is None else round(days * day), np.int32)
    parsed = ours("fab.rules").parse(rule) if decider is None else decider
    found = _Simulation(plan, parsed, rule, seed, start, end, days is None).run(report)
    if days is None:
        # The clock stops when the last lot leaves. What no lot waits for may go down after that,
        # and only a run that ends there leaves it out.
        instance = plan.instance
        if instance.breakdowns is not None or instance.maintenance is not None:
            again = _Simulation(plan, parsed, rule, seed, start, found.last + 1, False)
            first, found = found, again.run(report)
            found = dataclasses.replace(
                found,
                seconds=first.seconds + found.seconds,
                compile_seconds=first.compile_seconds + found.compile_seconds,
                dispatches=first.dispatches + found.dispatches,
            )
        end = found.last
        window = found.state.window._replace(end=end)
        found = dataclasses.replace(found, state=found.state._replace(window=window))
    figures = ours("fab.figures").measure(plan, found.state)
    if days is None:
        figures["makespan"] = end / plan.ticks
    return Result(
        rule=rule,
        figures=figures,
        start=start.astype(np.int64),
        end=end.astype(np.int64),
        left_replication=found.left[0],
        left_product=found.left[1],
        cycle_time=found.left[2],
        tardiness=found.left[3],
        dispatches=found.dispatches,
        seconds=found.seconds,
        compile_seconds=found.compile_seconds,
        trace=found.records.trace(int(end[0])),
    )


@dataclasses.dataclass
class _Found:
    """What `_Simulation` found; `last` is the tick ``[B]`` at which the last operation ended."""

    state: Any
    last: NDArray[np.int32]
    left: tuple[Ints, ...]
    dispatches: int
    seconds: float
    compile_seconds: float
    records: "_Records"


class _Seen(NamedTuple):
    """What one step shows of replication 0, and of all: lots that left and their cycle times.

    `moves`: of `dynamics.step`. `processing`: of each slot before it. `gone`: whether each slot's
    lot leaves when it is `ready`, both after it. `free`, `fails`, `failures`, `service_at`: of the
    tools after it.
    `given`, `release`, `product`: lots that were given a number, and the last of these.
    `left`, `cycle_time`, `tardiness`: ``[B, P]``.
    """

    moves: Any
    processing: jax.Array
    gone: jax.Array
    ready: jax.Array
    free: jax.Array
    fails: jax.Array | None
    failures: jax.Array | None
    service_at: jax.Array | None
    given: jax.Array
    release: jax.Array
    product: jax.Array
    left: jax.Array
    cycle_time: jax.Array
    tardiness: jax.Array


# What `_Seen` has of all replications.
_OF_ALL = ("left", "cycle_time", "tardiness")


class _Simulation:
    """One fab, one rule, all replications."""

    def __init__(
        self,
        plan: Any,
        rule: Any,
        name: str,
        seed: int,
        start: NDArray[np.int32],
        end: NDArray[np.int32],
        until_all_left: bool,
    ) -> None:
        self.plan, self.rule, self.name, self.seed = plan, rule, name, seed
        self.start, self.end, self.until_all_left = start, end, until_all_left
        self.dynamics = ours("fab.dynamics")
        self.length = max(16, min(_CHUNK, _CELLS // plan.instance.slots))
        self.lots = len(plan.instance.releases.time) if until_all_left else 0

    def _begin(self, instance: Any, keys: jax.Array, start: jax.Array, end: jax.Array) -> Any:
        window = ours("fab.figures").Window(start, end)
        state = ours("fab.simulate").start(
            instance, keys, type(window)(jnp.int32(0), jnp.int32(self.end.max()))
        )
        zeros = jnp.zeros_like(end)
        return state._replace(window=window), zeros, zeros

    def _chunk(self, instance: Any, carry: Any) -> Any:
        step = jax.vmap(lambda state: self.dynamics.step(instance, self.rule, state))

        def body(carry: Any, _: None) -> Any:
            before, dispatches, last = carry
            after, moves = step(before)
            dispatches = dispatches + moves.leader.sum(1)
            last = jnp.maximum(last, jnp.where(moves.moved, moves.end, 0).max(1))
            return (after, dispatches, last), self._seen(instance, before, after, moves)

        carry, seen = jax.lax.scan(body, carry, length=self.length)
        # With an axis of replications first, as `deal` wants.
        of_all = {name: jnp.swapaxes(getattr(seen, name), 0, 1) for name in _OF_ALL}
        first = jax.tree.map(lambda x: x[None], seen._replace(**dict.fromkeys(_OF_ALL)))
        state = carry[0]
        now = jax.vmap(lambda s: self.dynamics.dispatch_times(instance, s).min())(state)
        over = jax.vmap(lambda s: self.dynamics.finished(instance, s))(state)
        gone = state.figures.finished.sum(1)
        return carry, (first, of_all), (now, over, gone, state.late)

    def _seen(self, instance: Any, before: Any, after: Any, moves: Any) -> _Seen:
        old, new, moves = jax.tree.map(lambda x: x[0], (before, after, moves))
        newest = jnp.argmax(new.lots.number)
        grown = lambda name: (  # noqa: E731
            getattr(after.figures, name).low - getattr(before.figures, name).low
        ).astype(jnp.int32)
        return _Seen(
            moves=moves,
            processing=old.lots.processing,
            gone=new.lots.group == instance.num_groups,
            ready=new.lots.ready,
            free=new.tools.free,
            fails=new.tools.fails,
            failures=new.tools.failures,
            service_at=new.tools.service_at,
            given=new.count,
            release=new.lots.release[newest],
            product=instance.product[new.lots.op[newest]],
            left=after.figures.finished - before.figures.finished,
            cycle_time=grown("cycle_time"),
            tardiness=grown("tardiness"),
        )

    def run(self, report: Callable[[Standing], None]) -> _Found:
        replications = len(self.end)
        instance = jax.tree.map(jnp.asarray, self.plan.instance)
        keys = jax.random.split(jax.random.key(self.seed), replications)
        began = time.perf_counter()
        deal = ours("fab.simulate").deal
        begin = deal(self._begin, replications, (False, True, True, True))
        carry = jax.jit(begin)(instance, keys, self.start, self.end)
        dealt = deal(self._chunk, replications, (False, True))

        def advance(instance: Any, carry: Any) -> Any:
            carry, (first, of_all), standing = dealt(instance, carry)
            seen: _Seen = jax.tree.map(lambda x: x[0], first)
            of_all = {name: jnp.swapaxes(x, 0, 1) for name, x in of_all.items()}
            return carry, seen._replace(**of_all), standing

        chunk = jax.jit(advance).lower(instance, carry).compile()
        compiled = time.perf_counter()
        records = _Records(self.plan, jax.device_get(jax.tree.map(lambda x: x[0], carry[0])))
        left: list[tuple[Ints, ...]] = []
        over = np.zeros(replications, bool)
        while not over.all():
            carry, seen, standing = chunk(instance, carry)
            now, over, gone, late = (np.asarray(x) for x in standing)
            seen = jax.device_get(seen)
            records.add(seen)
            left.append(_lots_that_left(seen))
            if late.any():
                raise InputError(self._too_few_slots(int(now[late].min()), int(late.sum())))
            if self.until_all_left:
                stuck = over & (gone < self.lots)
                if stuck.any():
                    raise InputError(self._stuck(int((self.lots - gone).max())))
                over = gone == self.lots
                done, total = float(gone.min()), float(self.lots)
            else:
                done, total = float(np.minimum(now, self.end).min()), float(self.end.max())
            dispatches = int(np.asarray(carry[1], np.int64).sum())
            report(Standing(done, total, dispatches, time.perf_counter() - compiled))
        return _Found(
            state=jax.device_get(carry[0]),
            last=np.asarray(carry[2]),
            left=tuple(np.concatenate(x) for x in zip(*left, strict=True)),
            dispatches=dispatches,
            seconds=time.perf_counter() - compiled,
            compile_seconds=compiled - began,
            records=records,
        )

    def _too_few_slots(self, now: int, late: int) -> str:
        slots, day = self.plan.instance.slots, now * self.plan.seconds / 86400
        of = f" of replication{'s' * (late > 1)}" if len(self.end) > 1 else ""
        return (
            f"fab '{self.plan.name}' has too few slots: all {slots} were taken by day {day:.3g}"
            f"{f' in {late} of {len(self.end)} replications' if of else ''}, so `slots` in its "
            f"description must allow more, unless the fab is unstable under the rule {self.name}."
        )

    def _stuck(self, lots: int) -> str:
        never = "lots never leave" if lots > 1 else "lot never leaves"
        return (
            f"{lots} {never} fab '{self.plan.name}' under the rule {self.name}: waiting for a "
            "batch that never fills up."
        )


def _lots_that_left(seen: _Seen) -> tuple[Ints, ...]:
    """Replication, product, cycle time and tardiness of the lots that left in a chunk."""
    left = np.asarray(seen.left)
    _, replication, product = np.nonzero(left)  # in a step at most one of a replication
    times = (np.asarray(x, np.int64)[left > 0] for x in (seen.cycle_time, seen.tardiness))
    return replication, product, *times


class _Records:
    """Puts a `Trace` together, chunk by chunk."""

    def __init__(self, plan: Any, state: Any) -> None:
        self.plan, tools, lots = plan, state.tools, state.lots
        self.before: tuple[Any, ...] = (
            tools.free,
            tools.fails,
            tools.failures,
            tools.service_at,
        )
        self.count = int(state.count)
        instance = plan.instance
        order = np.argsort(lots.number)
        self.lots = [(instance.product[lots.op[order]], lots.release[order])]
        self.dispatches: list[Ints] = []
        self.members: list[Ints] = []
        self.exits: list[Ints] = []
        self.downs: list[Ints] = []
        self.total = 0

    def add(self, seen: Any) -> None:
        """Takes a chunk's `_Seen`, on the host."""
        moves = seen.moves
        # The tools as they were before each step.
        tools = (seen.free, seen.fails, seen.failures, seen.service_at)
        before: list[Any] = [
            None if x is None else np.concatenate([old[None], x[:-1]])
            for old, x in zip(self.before, tools, strict=True)
        ]
        self.before = tuple(None if x is None else x[-1] for x in tools)
        free, fails, failures, service_at = before

        step, slot = np.nonzero(moves.leader)
        group, tool = moves.group[step, slot], moves.tool[step, slot]
        start, end = moves.start[step, slot], moves.end[step, slot]
        setup, processing = moves.setup[step, slot], seen.processing[step, slot]
        down = end - start - setup - processing
        setup_end = start + setup
        down_start = setup_end
        if fails is not None:
            busy = np.asarray(self.plan.instance.breakdowns.by_busy_time)[group]
            fail = fails[step, group, tool] + np.where(busy, start, 0)
            down_start = np.where(down > 0, fail, setup_end)
            setup_end = setup_end + np.where(down_start < setup_end, down, 0)
        lengths = (setup, processing, down)
        times = (start, setup_end, end, *lengths)
        self.dispatches.append(np.array((group, tool, moves.op[step, slot], *times), np.int64))
        self._down(group, tool, down_start, down_start + down)
        self._down(group, tool, end, seen.free[step, group, tool])

        # Members of a batch have their leader's step and group.
        index = np.full((len(moves.leader), self.plan.instance.num_groups), -1)
        index[step, group] = self.total + np.arange(len(step))
        self.total += len(step)
        step, slot = np.nonzero(moves.moved)
        which = (index[step, moves.group[step, slot]], moves.number[step, slot])
        members = (*which, moves.op[step, slot], seen.ready[step, slot])
        self.members.append(np.array(members, np.int64))
        gone = seen.gone[step, slot]
        left = (moves.number[step, slot][gone], moves.end[step, slot][gone])
        self.exits.append(np.array(left, np.int64))

        # Tools that did something else than start a lot went down while they were idle.
        changed = np.not_equal(seen.free, free)
        step, slot = np.nonzero(moves.leader)
        changed[step, group, tool] = False
        step, group, tool = np.nonzero(changed)
        if len(step):
            due = np.zeros(len(step), np.int64)
            if service_at is not None:
                due = service_at[step, group, tool].astype(np.int64)
            if fails is not None:
                breaks = (seen.failures != failures)[step, group, tool]
                due = np.where(breaks, fails[step, group, tool], due)
            start = np.maximum(free[step, group, tool], due)
            self._down(group, tool, start, seen.free[step, group, tool])

        counts = np.concatenate([[self.count], seen.given])
        new = counts[1:] != counts[:-1]
        self.count = int(counts[-1])
        self.lots.append((np.asarray(seen.product)[new], np.asarray(seen.release)[new]))

    def _down(self, group: Any, tool: Any, start: Any, end: Any) -> None:
        lasts = end > start
        self.downs.append(np.array([x[lasts] for x in (group, tool, start, end)], np.int64))

    def trace(self, last: int) -> Trace:
        members = np.concatenate(self.members, axis=1)
        downs = np.concatenate(self.downs, axis=1)
        product, release = (
            np.concatenate(x).astype(np.int64) for x in zip(*self.lots, strict=True)
        )
        left = np.full(len(product), ours("fab.instance").NEVER, np.int64)
        number, tick = np.concatenate(self.exits, axis=1)
        left[number] = tick
        columns = (*np.concatenate(self.dispatches, axis=1), *members, *downs)
        return Trace._make((*columns, product, release, left, last))
