"""The dynamics of a fab, without a list of events.

A lot knows when it is `ready` for its next operation, a tool when it is `free`. Group g next
dispatches at ``d_g = max(earliest lot ready, earliest tool free)``, and the fab at the smallest
d_g: what has not been dispatched by then starts no earlier, so whatever arrives by then is known.

**Several groups dispatch in one step, exactly.** What every lot does next, and what it does after
that, is known before it starts, because draws belong to entities. So ``max(ready, d of its group) +
processing + transport`` bounds from below when it arrives at its next group, and with the
processing time there added, when it can arrive at any other. A group that dispatches before any lot
can come to it in one move, or anywhere in two, sees all that it would ever see: all such groups go
at once. A rule that looks into other groups' queues needs them one at a time: ``one_at_a_time``;
one that waits for lots on their way to a batch lets groups with batches go when none could before.

What happens at the same tick happens in this order:

1. lots that finished arrive, those that leave are replaced, lots are released;
2. tools go down: breakdowns, then maintenance by the calendar;
3. groups dispatch, in the order of their numbers, each until it lacks a lot or a tool.

A lot that left its last operation stays in its slot until that operation ends. It then counts as
finished, and the slot takes the next release; in a CONWIP fab the slot is a card, and its next
lot is released at that moment.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from . import draws
from .draws import Words
from .figures import Figures, Window
from .instance import NEVER, Conwip, Duration, Instance, Planned, Renewal
from .queue import Queue, first_of, once, per_group
from .rules import Rule

Optional = Any  # an array, or None where the instance lacks the feature


class Visit(NamedTuple):
    """An operation of a lot, with what was drawn for it.

    Attributes:
      op: the operation; the last one where the lot is leaving.
      group: where it is done; G where the lot is leaving.
      processing: how long it will take, in ticks.
      returns: how often the lot was sent back for rework before.
      luck: random bits of the lot's own at this operation, uint32: the lower half decides whether
        it goes back, the upper whether it is sampled; None where no lot does.
    """

    op: jax.Array
    group: jax.Array
    processing: jax.Array
    returns: jax.Array
    luck: Optional


class Forecast(NamedTuple):
    """What can be known of when lots will be ready.

    Attributes:
      sent: tick at which the operation before began, its setup included, or of the release.
      expected: when they would be ready if that took its mean time and no tool broke down.
    """

    sent: jax.Array
    expected: jax.Array


class Lots(NamedTuple):
    """The lots in N slots, all ``[N]``.

    Attributes:
      op, group, processing, returns, luck: of the `Visit` that each waits for or will next be
        ready for.
      following: the one after that.
      ready: tick from which it waits, or leaves.
      forecast: of `ready`; None where there are no batches, which alone wait for lots.
      release, due: ticks.
      weight: int32.
      factor: its flow factor, float32: due = release + factor * work of the route.
      number: its place in the order of releases, unique.
      cycle: how many lots the slot has held before.
      key: words of its own.
    """

    op: jax.Array
    group: jax.Array
    processing: jax.Array
    returns: jax.Array
    luck: Optional
    following: Visit
    ready: jax.Array
    forecast: Optional
    release: jax.Array
    due: jax.Array
    weight: jax.Array
    factor: jax.Array
    number: jax.Array
    cycle: jax.Array
    key: Words


class Tools(NamedTuple):
    """The tools, all ``[G, T]``; None what the instance does not have.

    Attributes:
      free: tick from which the tool can start something.
      setup: its setup state.
      fails: the next breakdown: its tick, or the work left until then where breakdowns go by busy
        time.
      failures: how many there were.
      service_at: next maintenance by the calendar.
      services: how many there were.
      pieces: lots since the last maintenance by pieces.
    """

    free: jax.Array
    setup: Optional
    fails: Optional
    failures: Optional
    service_at: Optional
    services: Optional
    pieces: Optional


class State(NamedTuple):
    """A fab between two steps.

    Attributes:
      key: words that every draw of this fab comes from.
      lots, tools: what is where.
      asked: ``[G]`` tick at which each group last dispatched or decided to wait.
      waits: ``[G]`` bool: nothing to start until a lot arrives or a tool becomes free, after
        `asked`. None where no group ever waits.
      next_release: ``[P]`` tick of each product's next release.
      released: ``[P]`` how many of each product were released.
      count: lots that were given a number.
      late: whether a release came before a slot was free for it; what follows is wrong then.
      window, figures: what is measured, and when.
    """

    key: Words
    lots: Lots
    tools: Tools
    asked: jax.Array
    waits: Optional
    next_release: jax.Array
    released: jax.Array
    count: jax.Array  # type: ignore[assignment]  # a tuple's method of that name is not used
    late: jax.Array
    window: Window
    figures: Figures


class Moves(NamedTuple):
    """The lots that a step sent to tools, ``[N]``; the rest is meaningless where `moved` is False.

    `number`, `op`: of the lot. `group`, `tool`: where. `start`: of the setup. `setup`: its ticks.
    `end`: of the operation, repairs included. `leader`: whether the lot was ranked first.
    """

    moved: jax.Array
    leader: jax.Array
    number: jax.Array
    op: jax.Array
    group: jax.Array
    tool: jax.Array
    start: jax.Array
    setup: jax.Array
    end: jax.Array


def init(instance: Instance, key: jax.Array, window: Window, may_wait: bool = False) -> State:
    """A fab at tick 0: tools idle, lots about to be released.

    Args:
      instance: the fab.
      key: typed; every draw of the simulation comes from it.
      window: when figures are taken, and where the run ends.
      may_wait: whether groups may decide to wait; where there are batches they may anyway.
    """
    may_wait = may_wait or instance.batches is not None
    words = draws.words(key)
    groups, products = instance.num_groups, instance.num_products
    state = State(
        key=words,
        lots=_empty(instance),
        tools=_tools(instance, words),
        asked=jnp.zeros(groups, jnp.int32),
        waits=jnp.zeros(groups, bool) if may_wait else None,
        next_release=_first_releases(instance, words),
        released=jnp.zeros(products, jnp.int32),
        count=jnp.int32(0),
        late=jnp.bool_(False),
        window=window,
        figures=Figures.zeros(instance),
    )

    def fill(slot: jax.Array, state: State) -> State:
        return _release(instance, state, slot, jnp.int32(0), jnp.bool_(True))

    state = jax.lax.fori_loop(0, instance.slots, fill, state)
    if isinstance(instance.releases, Conwip) and instance.releases.spread:
        state = state._replace(lots=_spread(instance, state.lots))
    return state


def step(
    instance: Instance, rule: Rule, state: State, one_at_a_time: bool = False
) -> tuple[State, Moves]:
    """Lets every group that can dispatch before anything can reach it, dispatch once.

    A run that has reached its horizon stays as it is.

    Args:
      instance, rule: the fab, and what its groups dispatch by.
      state: where it is.
      one_at_a_time: only the first group that can.
    """
    one_at_a_time = one_at_a_time or rule.looks_elsewhere
    state, queue = advance(instance, state, one_at_a_time, rule.looks_ahead)
    leader, keys = rule(queue)
    return dispatch(instance, state, queue, leader, keys)


def dispatch_times(instance: Instance, state: State) -> jax.Array:
    """``[G]`` tick at which each group next has a lot and a tool; NEVER where none is in sight."""
    lots, ready = state.lots, state.lots.ready
    free = jnp.where(instance.tools, state.tools.free, NEVER)
    tool = free.min(1)
    if state.waits is None:
        event = per_group(instance, lots, ready, "min", NEVER)
    else:
        # One that waits has lots already, and goes on with the next lot or the next tool.
        after = jnp.append(jnp.where(state.waits, state.asked, -1), -1)[lots.group]
        event = per_group(instance, lots, jnp.where(ready > after, ready, NEVER), "min", NEVER)
        later = jnp.where(free > state.asked[:, None], free, NEVER).min(1)
        event = jnp.where(state.waits, jnp.minimum(event, later), event)
    times = jnp.maximum(jnp.maximum(event, tool), state.asked)
    if instance.shifts is not None:
        times = on_shift(instance, times)
    return times


def advance(
    instance: Instance, state: State, one_at_a_time: bool, looks_ahead: bool
) -> tuple[State, Queue]:
    """Exits, releases and the downtimes of idle tools, up to the next dispatches.

    Args:
      instance, state: the fab.
      one_at_a_time: only the first group dispatches.
      looks_ahead: groups with batches dispatch when no other one could before them, so that all
        lots are known that are on their way by then.

    Returns:
      The state, and what the groups that now dispatch see.
    """
    lots, groups = state.lots, instance.num_groups
    times = dispatch_times(instance, state)
    leaving = lots.group == groups
    exits = jnp.where(leaving, lots.ready, NEVER)
    slot = jnp.argmin(exits)
    reached, left = _horizons(instance, state, times)
    # Lots that leave at one tick do so in the order of their slots, so all of them must be known.
    leaves = exits[slot] < jnp.minimum(left, state.window.end)
    # No slot becomes free before this, nor does a lot come to the fab.
    freed = jnp.minimum(jnp.minimum(left, exits[slot]), state.window.end)

    if not isinstance(instance.releases, Conwip):
        # All slots hold earlier releases.
        state = state._replace(late=state.late | (state.next_release.min() < freed))

    bound = jnp.minimum(reached, freed)
    active = times < bound
    if one_at_a_time:
        active = active & (jnp.arange(groups) == jnp.argmin(times))
    if looks_ahead and instance.batches is not None:
        batched = (instance.batches.family[lots.op] > 0).astype(jnp.int32)
        later = times > times.min()
        active = active & ~(later & (per_group(instance, lots, batched, "add", 0) > 0))
    due = _next_down(instance, state.tools)
    if due is not None:
        pending = due <= times[:, None]
        active = active & ~pending.any(1)
        until = jnp.minimum(bound, times.min() + 1) if one_at_a_time else bound
        pending = pending & (due < until[:, None])
        state = _go_down(instance, state, jnp.where(pending, due, NEVER))

    figures = state.figures.left(
        state.window,
        leaves,
        instance.product[lots.op[slot]],
        lots.ready[slot],
        lots.release[slot],
        lots.due[slot],
        lots.weight[slot],
    )
    # The replacement arrives later than any of the groups that dispatch now, which do not see it.
    state = state._replace(figures=figures)
    state = _release(instance, state, slot, lots.ready[slot], leaves)
    return state, Queue(instance, state.lots, state.tools, times, active, one_at_a_time)


def _horizons(instance: Instance, state: State, times: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Ticks before which no lot can come to each group ``[G]``, nor leave its last one ``[]``.

    Lots that left their last one already are not meant.

    Args:
      instance, state: the fab.
      times: ``[G]`` when each group next dispatches if no lot comes before.
    """
    lots, groups = state.lots, instance.num_groups
    following = lots.following
    leaving, last = lots.group == groups, following.group == groups
    first, second = lots.processing, following.processing
    if instance.batches is not None:
        # A batch takes what its leader takes, which may be any lot there now or after its move.
        one, two = (instance.batches.family[op] > 0 for op in (lots.op, following.op))
        shortest = jnp.minimum(
            jnp.where(one & ~leaving, first, NEVER).min(),
            jnp.where(two & ~last, second, NEVER).min(),
        )
        first, second = jnp.where(one, shortest, first), jnp.where(two, shortest, second)
    if instance.transport is not None:
        first = first + jnp.where(last, 0, instance.transport[lots.op])
    start = jnp.maximum(lots.ready, jnp.append(times, 0)[lots.group])
    arrival = jnp.where(leaving, NEVER, jnp.minimum(start, NEVER) + first)
    onward = jnp.where(leaving | last, NEVER, jnp.minimum(arrival, NEVER) + second).min()
    to_group = jnp.full(groups, NEVER).at[following.group].min(arrival, mode="drop")
    return jnp.minimum(to_group, onward), jnp.minimum(onward, jnp.where(last, arrival, NEVER).min())


def dispatch(
    instance: Instance,
    state: State,
    queue: Queue,
    leader: jax.Array,
    keys: tuple[jax.Array, ...] = (),
) -> tuple[State, Moves]:
    """Starts the chosen lots.

    Args:
      instance, state: the fab, as `advance` left it.
      queue: what the groups saw.
      leader: ``[G]`` the slot of the lot that each active group starts; N for one that waits
        until a lot arrives or a tool becomes free.
      keys: ``[N]`` each; of the lots that could join the leader's batch, the smallest do.

    The tool is the idle one that needs the shortest setup, the first of several.
    """
    slots, groups, num_tools = instance.slots, instance.num_groups, instance.num_tools
    lots, tools, window = state.lots, state.tools, state.window
    starts = queue.active & (leader < slots)
    row = jnp.minimum(leader, slots - 1)
    op = lots.op[row]

    if instance.setups is None:
        ticks = jnp.zeros((groups, num_tools), jnp.int32)
    else:
        needed = instance.setups.state[op]
        rows = instance.setups.row[:, None]
        ticks = instance.setups.time[rows, tools.setup, needed[:, None]]
    ticks = jnp.where(queue.idle, ticks, NEVER)
    setup = ticks.min(1)
    index = jnp.arange(num_tools)[None]
    tool = jnp.where(ticks == setup[:, None], index, num_tools).min(1)
    chosen = starts[:, None] & (index == tool[:, None])
    setup = jnp.where(starts, setup, 0)

    start = queue.times
    ready = start + setup
    expected = ready + instance.work[op]
    end = ready + lots.processing[row]
    figures = state.figures
    down = (jnp.zeros(groups, jnp.int32), jnp.zeros(groups, jnp.int32))
    if instance.breakdowns is not None:
        tools, ready, end, down = _interrupt(instance, state, chosen, start, ready, end)

    members = _members(instance, queue, row, starts, keys)
    sizes = starts.astype(jnp.int32)
    if instance.batches is not None:
        sizes = per_group(instance, lots, members.astype(jnp.int32), "add", 0)
    free = end
    if instance.maintenance is not None:
        tools, free = _after_pieces(instance, state, tools, chosen, sizes, end)
        figures = figures._replace(
            down=figures.down.add(jnp.where(starts, window.overlap(end, free), 0))
        )
    tools = tools._replace(free=jnp.where(chosen, free[:, None], tools.free))
    if instance.setups is not None:
        keeps = needed == 0
        tools = tools._replace(
            setup=jnp.where(chosen & ~keeps[:, None], needed[:, None], tools.setup)
        )

    counted = starts & window.holds(end)
    figures = figures._replace(
        setup=figures.setup.add(jnp.where(starts, window.overlap(start, ready) - down[0], 0)),
        processing=figures.processing.add(
            jnp.where(starts, window.overlap(ready, end) - down[1], 0)
        ),
        down=figures.down.add(down[0] + down[1]),
        moves=figures.moves + jnp.where(counted, sizes, 0),
    )
    began, ends = queue.of_group(start, 0), queue.of_group(end, 0)
    record = Moves(
        moved=members,
        leader=members & (jnp.arange(slots) == queue.of_group(row, slots)),
        number=lots.number,
        op=lots.op,
        group=lots.group,
        tool=queue.of_group(tool, 0),
        start=began,
        setup=queue.of_group(setup, 0),
        end=ends,
    )
    state = state._replace(
        lots=_onward(instance, lots, members, began, queue.of_group(expected, 0), ends),
        tools=tools,
        asked=jnp.where(queue.active, start, state.asked),
        waits=None if state.waits is None else jnp.where(queue.active, ~starts, state.waits),
        figures=figures,
    )
    return state, record


def finished(instance: Instance, state: State) -> jax.Array:
    """Whether nothing is left to happen before the horizon."""
    times = dispatch_times(instance, state)
    exits = jnp.where(state.lots.group == instance.num_groups, state.lots.ready, NEVER).min()
    upcoming = jnp.minimum(times.min(), exits)
    due = _next_down(instance, state.tools)
    if due is not None:
        upcoming = jnp.minimum(upcoming, due.min())
    return upcoming >= state.window.end


# Lots.


def _empty(instance: Instance) -> Lots:
    """Slots that never held a lot."""
    zeros = jnp.zeros(instance.slots, jnp.int32)
    words = jnp.zeros(instance.slots, jnp.uint32)
    luck = None if instance.rework is None else words
    visit = Visit(zeros, zeros, zeros, zeros, luck)
    return Lots(
        **visit._asdict(),
        following=visit,
        ready=zeros,
        forecast=None if instance.batches is None else Forecast(zeros, zeros),
        release=zeros,
        due=zeros,
        weight=zeros,
        factor=jnp.zeros(instance.slots, jnp.float32),
        number=zeros,
        cycle=zeros,
        key=Words(words, words),
    )


def _release(
    instance: Instance, state: State, slot: jax.Array, now: jax.Array, happens: jax.Array
) -> State:
    """The next lot takes a slot that became free at `now`, where that `happens`."""
    source, orders = instance.releases, instance.orders
    next_release, released = state.next_release, state.released
    if isinstance(source, Conwip):
        # The slot is a card, and the lot its next one.
        cycle = state.lots.cycle[slot] + 1
        key = draws.draw(state.key, draws.LOT, slot, cycle)
        share = draws.uniform(draws.draw(key, draws.RELEASE, jnp.int32(0)).a)
        product = jnp.minimum((share >= source.share).sum(), instance.num_products - 1)
        at = now
    else:
        cycle = state.lots.cycle[slot]
        product = jnp.argmin(next_release)
        at = next_release[product]
        if isinstance(source, Planned):
            number = state.count
            last = source.time.shape[0] - 1
            product = source.product[jnp.minimum(number, last)]
            after = source.time[jnp.minimum(number + 1, last)]
            next_release = jnp.where(number < last, after, NEVER)[None]
        else:
            number = released[product]
            ahead = _between(instance, state.key, number + 1)
            soon = jnp.minimum(next_release, NEVER - ahead) + ahead
            mine = jnp.arange(instance.num_products) == product
            next_release = jnp.where(mine, soon, next_release)
        key = draws.draw(state.key, draws.LOT, number, product)
    released = released + (jnp.arange(instance.num_products) == product)
    op = instance.first[product]
    work = instance.done[op] + instance.remaining[op] - instance.work[op]
    worth = draws.draw(key, draws.ORDER, jnp.int32(0))
    hot = (
        draws.uniform(draws.draw(key, draws.HOT, jnp.int32(0)).a) < orders.hot_probability[product]
    )
    low, high = orders.factor_low[product], orders.factor_high[product]
    factor = jnp.where(hot, orders.hot_factor[product], low + (high - low) * draws.uniform(worth.a))
    light, heavy = orders.weight_low[product], orders.weight_high[product]
    span = (heavy - light + 1).astype(jnp.float32)
    weight = light + jnp.minimum((span * draws.uniform(worth.b)).astype(jnp.int32), heavy - light)
    weight = jnp.where(hot, orders.hot_weight[product], weight)
    visit = _visit(instance, key, op, jnp.int32(0))
    lot = Lots(
        **visit._asdict(),
        following=_after(instance, key, visit),
        ready=at,
        forecast=None if instance.batches is None else Forecast(at, at),
        release=at,
        due=at + jnp.round(factor * work).astype(jnp.int32),
        weight=weight,
        factor=factor,
        number=state.count,
        cycle=cycle,
        key=key,
    )
    keep = lambda new, old: jnp.where(happens, new, old)  # noqa: E731
    put = lambda slots, one: slots.at[slot].set(keep(one, slots[slot]))  # noqa: E731
    return state._replace(
        lots=jax.tree.map(put, state.lots, lot),
        next_release=keep(next_release, state.next_release),
        released=keep(released, state.released),
        count=state.count + happens,
    )


def _first_releases(instance: Instance, key: Words) -> jax.Array:
    """``[P]`` when the first lot of each product comes; ``[1]`` for a list."""
    source = instance.releases
    if isinstance(source, Planned):
        return source.time[:1]
    if isinstance(source, Conwip):
        return jnp.zeros(instance.num_products, jnp.int32)
    first = _between(instance, key, jnp.zeros(instance.num_products, jnp.int32))
    return jnp.where(source.first < 0, first, source.first)


def _between(instance: Instance, key: Words, number: jax.Array) -> jax.Array:
    """``[P]`` ticks between the release of each product's lot before `number` and that one."""
    products = jnp.arange(instance.num_products)
    source = instance.releases
    assert isinstance(source, Renewal)
    bits = draws.draw(key, draws.RELEASE, number, products)
    return _sample(bits, source.between)


def _spread(instance: Instance, lots: Lots) -> Lots:
    """Lots at even distances along their routes, as old as at the pace of their flow factors."""
    slots = lots.op.shape[0]
    part = jnp.arange(slots) / slots
    op = lots.op + jnp.floor(part * instance.left[lots.op]).astype(jnp.int32)
    visit = _visit(instance, lots.key, op, jnp.zeros_like(op))
    age = jnp.round(lots.factor * (instance.done[op] - instance.work[op])).astype(jnp.int32)
    return lots._replace(
        **visit._asdict(),
        following=_after(instance, lots.key, visit),
        release=lots.release - age,
        due=lots.due - age,
    )


def _visit(instance: Instance, key: Words, op: jax.Array, returns: jax.Array) -> Visit:
    """What lots with a `key` find at an operation."""
    bits = draws.draw(key, draws.PROCESSING, op, returns)
    return Visit(
        op=op,
        group=instance.group[op],
        processing=_sample(bits, _of(instance.processing, op)),
        returns=returns,
        luck=None if instance.rework is None else bits.b,
    )


def _after(instance: Instance, key: Words, visit: Visit) -> Visit:
    """What lots with a `key` do after a visit."""
    op, returns, groups = visit.op, visit.returns, instance.num_groups
    following = op + 1
    last = instance.left[op] == 1
    rework = instance.rework
    if rework is not None:
        back = _chance(visit.luck & 0xFFFF) < rework.probability[op]
        following = jnp.where(back, rework.back_to[op], following)
        last = last & ~back
        returns = returns + back
    last = last | (visit.group == groups)
    following = jnp.where(last, op, following)
    if rework is not None:
        for _ in range(rework.longest_skip):
            bits = draws.draw(key, draws.PROCESSING, following, returns)
            skips = ~last & (_chance(bits.b >> 16) >= rework.sampled[following])
            last = last | (skips & (instance.left[following] == 1))
            following = jnp.where(skips & ~last, following + 1, following)
        both = once(2 * following + last)
        following, last = both >> 1, (both & 1) == 1
    after = _visit(instance, key, following, returns)
    return after._replace(group=jnp.where(last, groups, after.group))


def _of(times: Duration, index: jax.Array) -> Duration:
    """Those with some indices."""
    return Duration(times.mean[index], times.cv[index], times.kind[index], times.kinds)


def _sample(bits: Words, times: Duration) -> jax.Array:
    return draws.duration(bits, times.mean, times.kind, times.cv, times.kinds)


def _members(
    instance: Instance,
    queue: Queue,
    row: jax.Array,
    starts: jax.Array,
    keys: tuple[jax.Array, ...],
) -> jax.Array:
    """``[N]`` bool: the lots that start, which are the leaders and what joins their batches."""
    slots = jnp.arange(instance.slots)
    members = queue.of_group(starts, False) & (slots == queue.of_group(row, 0))
    if instance.batches is None:
        return members
    family = queue.family[row]
    maximum = instance.batches.maximum[queue.lots.op[row]]
    may_join = (
        queue.waiting
        & ~members
        & queue.of_group(starts, False)
        & (queue.family > 0)
        & (queue.family == queue.of_group(family, 0))
    )
    room: jax.Array = jnp.where(starts, maximum - 1, 0)
    joins = per_group(instance, queue.lots, may_join.astype(jnp.int32), "add", 0)
    all_fit = joins <= room
    fits = may_join & queue.of_group(all_fit, False)
    members, may_join = members | fits, may_join & ~fits
    room = jnp.where(all_fit, 0, room)

    def body(carry: Any) -> Any:
        # One lot into the batch of the first group with room.
        members, may_join, room = carry
        group = jnp.argmax(room > 0)
        joins = first_of(queue, keys, may_join & (queue.lots.group == group))
        full = room - (jnp.arange(room.shape[0]) == group)
        return members | joins, may_join & ~joins, full

    # Only where more lots wait than fit must they be ranked one by one.
    return jax.lax.while_loop(lambda carry: (carry[2] > 0).any(), body, (members, may_join, room))[
        0
    ]


def _onward(
    instance: Instance,
    lots: Lots,
    moved: jax.Array,
    start: jax.Array,
    expected: jax.Array,
    end: jax.Array,
) -> Lots:
    """Lots that `moved` go to what follows, where they are ready after their operations `end`."""
    following = lots.following
    carried: Any = 0
    if instance.transport is not None:
        stays = following.group < instance.num_groups
        carried = jnp.where(stays, instance.transport[lots.op], 0)
    onward = lots._replace(
        **following._asdict(),
        following=_after(instance, lots.key, following),
        ready=end + carried,
        forecast=None if lots.forecast is None else Forecast(start, expected + carried),
    )
    return jax.tree.map(lambda new, old: jnp.where(moved, new, old), onward, lots)


def _chance(bits: jax.Array) -> jax.Array:
    """float32 in (0, 1) from 16 random bits."""
    return (bits.astype(jnp.float32) + 0.5) * jnp.float32(2.0**-16)


# Tools.


def _tools(instance: Instance, key: Words) -> Tools:
    """Idle tools at tick 0."""
    shape = (instance.num_groups, instance.num_tools)
    zeros = jnp.zeros(shape, jnp.int32)
    tools = Tools(zeros, None, None, None, None, None, None)
    if instance.setups is not None:
        tools = tools._replace(setup=jnp.broadcast_to(instance.setups.initial[:, None], shape))
    if instance.breakdowns is not None:
        until = jax.tree.map(lambda x: x[:, None], instance.breakdowns.until)
        first = _length(key, draws.BREAKDOWN, _numbers(instance), zeros, until)
        first = jnp.where(instance.breakdowns.fails[:, None], first, NEVER)
        tools = tools._replace(fails=first, failures=zeros)
    if instance.maintenance is not None:
        tools = tools._replace(service_at=instance.maintenance.first, services=zeros, pieces=zeros)
    return tools


def _numbers(instance: Instance) -> jax.Array:
    """``[G, T]`` a number for each tool of the fab."""
    groups, num_tools = instance.num_groups, instance.num_tools
    return jnp.arange(groups * num_tools).reshape(groups, num_tools)


def _length(key: Words, stream: int, tool: jax.Array, number: jax.Array, times: Duration) -> Any:
    """How long an event of a tool takes, by the tool's number in the fab and the event's."""
    return _sample(draws.draw(key, stream, tool, number), times)


def _next_down(instance: Instance, tools: Tools) -> jax.Array | None:
    """``[G, T]`` when each tool next goes down if idle; None where no tool ever does."""
    due = []
    if tools.fails is not None and instance.breakdowns is not None:
        due.append(jnp.where(instance.breakdowns.by_busy_time[:, None], NEVER, tools.fails))
    if tools.service_at is not None:
        due.append(tools.service_at)
    if not due:
        return None
    soonest = due[0] if len(due) == 1 else jnp.minimum(*due)
    return jnp.where(instance.tools, soonest, NEVER)


def _go_down(instance: Instance, state: State, due: jax.Array) -> State:
    """Takes the idle tool down that is first `due`, ``[G, T]``, NEVER for those that are not.

    That is one tool a step, as draws for all would cost more than the steps saved. A breakdown
    goes before maintenance.
    """
    tools, key = state.tools, state.key
    tool = jnp.argmin(due.ravel())
    here = (_numbers(instance) == tool) & (due < NEVER)
    group = tool // instance.num_tools
    its = lambda x: x[group, tool % instance.num_tools]  # noqa: E731
    free = its(tools.free)
    start, end = free, free
    service_at, breaks = jnp.int32(NEVER), jnp.bool_(False)
    if instance.maintenance is not None:
        plan = instance.maintenance
        service_at = its(tools.service_at)
        start = jnp.maximum(free, service_at)
        end = start + _length(
            key, draws.SERVICE, tool, its(tools.services), _of(plan.duration, group)
        )
    if instance.breakdowns is not None:
        failures = instance.breakdowns
        fails = jnp.where(failures.by_busy_time[group], NEVER, its(tools.fails))
        number = its(tools.failures)
        breaks = fails <= service_at
        begins = jnp.maximum(free, fails)
        repair = _length(key, draws.REPAIR, tool, number, _of(failures.repair, group))
        start = jnp.where(breaks, begins, start)
        end = jnp.where(breaks, begins + repair, end)
        until = _length(key, draws.BREAKDOWN, tool, number + 1, _of(failures.until, group))
        tools = tools._replace(
            fails=jnp.where(here & breaks, end + until, tools.fails),
            failures=tools.failures + (here & breaks),
        )
    if instance.maintenance is not None:
        served = here & ~breaks
        tools = tools._replace(
            service_at=tools.service_at + jnp.where(served, instance.maintenance.period[group], 0),
            services=tools.services + served,
        )
    lost = jnp.where(here.any(1), state.window.overlap(start, end), 0)
    figures = state.figures
    return state._replace(
        tools=tools._replace(free=jnp.where(here, end, tools.free)),
        figures=figures._replace(down=figures.down.add(lost)),
    )


def _interrupt(
    instance: Instance,
    state: State,
    chosen: jax.Array,
    start: jax.Array,
    ready: jax.Array,
    end: jax.Array,
) -> tuple[Tools, jax.Array, jax.Array, tuple[jax.Array, jax.Array]]:
    """Breakdowns during the operations that start, each of which ends later by its repair.

    Args:
      chosen: ``[G, T]`` bool, the tool that each group uses.
      start, ready, end: ``[G]`` of setup and processing, without breakdowns.

    Returns:
      The tools; when setups end; when operations end; downtime within the window during setups
      and during processing.
    """
    plan, tools, window = instance.breakdowns, state.tools, state.window
    assert plan is not None
    tool = jnp.where(chosen, _numbers(instance), 0).sum(1)
    fails = jnp.where(chosen, tools.fails, 0).sum(1)
    number = jnp.where(chosen, tools.failures, 0).sum(1)
    starts = chosen.any(1)
    # Work goes on where it stopped, so both clocks tell when the next failure comes in this way.
    fails = jnp.where(starts, fails + jnp.where(plan.by_busy_time, start, 0), NEVER)
    fails = jnp.where(plan.fails, fails, NEVER)
    # Groups that start nothing have times near NEVER, which a failure must not chase.
    ready, end = jnp.where(starts, ready, 0), jnp.where(starts, end, 0)
    none = jnp.zeros_like(start)

    def body(carry: _Interrupted) -> _Interrupted:
        # The next failure of the first group that has one.
        fails, number, ready, end, in_setup, in_processing = carry
        group = jnp.argmax(fails < end)
        hit, early = jnp.arange(len(fails)) == group, fails < ready
        its, which = tool[group], number[group]
        repair = _length(state.key, draws.REPAIR, its, which, _of(plan.repair, group))
        until = _length(state.key, draws.BREAKDOWN, its, which + 1, _of(plan.until, group))
        again = fails + repair + until
        repair = jnp.where(hit, repair, 0)
        lost = window.overlap(fails, fails + repair)
        return _Interrupted(
            fails=jnp.where(hit, again, fails),
            number=number + hit,
            ready=ready + jnp.where(early, repair, 0),
            end=end + repair,
            in_setup=in_setup + jnp.where(early, lost, 0),
            in_processing=in_processing + jnp.where(early, 0, lost),
        )

    after = jax.lax.while_loop(
        lambda carry: (carry.fails < carry.end).any(),
        body,
        _Interrupted(fails, number, ready, end, none, none),
    )
    fails = after.fails - jnp.where(plan.by_busy_time, after.end, 0)
    hit = chosen & plan.fails[:, None]
    tools = tools._replace(
        fails=jnp.where(hit, fails[:, None], tools.fails),
        failures=jnp.where(hit, after.number[:, None], tools.failures),
    )
    return tools, after.ready, after.end, (after.in_setup, after.in_processing)


class _Interrupted(NamedTuple):
    """Operations that start, in `_interrupt`, all ``[G]``."""

    fails: jax.Array
    number: jax.Array
    ready: jax.Array
    end: jax.Array
    in_setup: jax.Array
    in_processing: jax.Array


def _after_pieces(
    instance: Instance,
    state: State,
    tools: Tools,
    chosen: jax.Array,
    count: jax.Array,
    end: jax.Array,
) -> tuple[Tools, jax.Array]:
    """Maintenance right after the operation with which a tool has served enough lots.

    Returns:
      The tools, and ``[G]`` when each chosen one is free.
    """
    plan = instance.maintenance
    assert plan is not None
    pieces = tools.pieces + jnp.where(chosen, count[:, None], 0)
    due = chosen & (plan.pieces[:, None] > 0) & (pieces >= plan.pieces[:, None])
    tool = jnp.where(chosen, _numbers(instance), 0).sum(1)
    number = jnp.where(chosen, tools.services, 0).sum(1)
    length = _length(state.key, draws.PIECES, tool, number, plan.piece_duration)
    free = end + jnp.where(due.any(1), length, 0)
    tools = tools._replace(pieces=jnp.where(due, 0, pieces), services=tools.services + due)
    return tools, free


def on_shift(instance: Instance, times: jax.Array) -> jax.Array:
    """``[G]`` the first tick from `times` on at which each group may start."""
    shifts = instance.shifts
    assert shifts is not None
    phase = (times % shifts.period)[:, None]
    ahead = jnp.where(shifts.start >= phase, shifts.start, shifts.start + shifts.period)
    inside = (shifts.start <= phase) & (phase < shifts.end)
    used = shifts.start < shifts.end
    wait = jnp.where(inside, 0, ahead - phase)
    wait = jnp.where(used, wait, NEVER).min(1)
    return jnp.where(times < NEVER, times + wait, times)
