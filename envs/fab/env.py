"""The fab as an environment: a policy dispatches in place of a rule.

One agent per tool group. At a step every group that can dispatch chooses one of the lots that wait
there (a lot of a batch family stands for its batch), or to wait where that is allowed. Moves
without a choice are made on the way and need no network. Time between steps varies: rewards are
integrals over it, and ``info["time_discount"]`` is for the time that passed.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from gymnax.environments import spaces
from gymnax.environments.environment import Environment

from . import dynamics, library, rules, simulate
from .figures import Figures, Window
from .instance import NEVER, Conwip, Instance, Renewal
from .queue import Queue
from .rules import Rule

OBJECTIVES = ("cycle_time", "tardiness", "throughput", "energy", "utilisation")
# In the order of `Observation`'s columns.
LOT_FEATURES = (
    "option",
    "processing time",
    "time waited",
    "slack / work, wide",
    "slack / work, narrow",
    "slack",
    "work left",
    "share of work left",
    "slack of operation",
    "weight",
    "log weight",
    "setup",
    "fullness of batch",
    "load of next group",
    "next group is idle",
    "time in fab",
    "overdue",
    "urgency, slow",
    "urgency, fast",
    "urgency of batch, slow",
    "urgency of batch, fast",
)
GROUP_FEATURES = (
    "group chooses",
    "lots waiting",
    "work waiting",
    "tools free",
    "tools set up",
    "work on the way",
    "urgent lots on the way",
    "time to maintenance",
    "time to shift",
)
FAB_FEATURES = (
    "day, sine",
    "day, cosine",
    "shift, sine",
    "shift, cosine",
    "lots in fab",
    "overdue",
)


@struct.dataclass
class Observation:
    """What the agents see. All features lie in [-5, 5].

    Attributes:
      lots: ``[N, 21]`` float32: a lot that can be chosen now; log of its processing time; time
        waited; slack per work left, on a wide and on a narrow scale; slack in days; work left in
        days; share of work left; slack of its operation; weight and its log; setup; fullness of its
        batch; load of the group it goes to next, and how near that is to having none; time in the
        fab; how long it has been overdue; weight that fades slowly and fast with slack; the same
        of its whole batch.
      groups: ``[G, 9]`` float32: whether the group chooses now; lots and work waiting; parts of
        its tools that are free and in a setup state that some waiting lot needs; work on the way;
        urgent lots on the way; time to the next maintenance; time to the next shift.
      fab: ``[6]`` float32: time of day and phase of the shift calendar as sine and cosine; lots in
        the fab; part of them overdue.
      over: float32, the part of the episode that is over: of use to a critic, not to an actor.
      group: ``[N]`` int32, the group that each lot is at; G where it is leaving.
      options: ``[N]`` bool, the lots that their groups can choose.
      preference: ``[N]`` float32, how little each is behind the one that the environment's rule
        would choose, 0 for that one: see `rules.Rule.preference`; -10 for what is no option.
      active: ``[G]`` bool, the groups that choose.
      number: ``[N]`` int32, which lot is in the slot, in the order of releases; -1 where none is in
        the fab.
      gains: ``[N]`` float32, what the lot that was in the slot before the last step added to its
        reward: its time in the fab, in which throughput is counted, and its time overdue, in
        days with the objectives' weights. Energy and utilisation are nobody's.
    """

    lots: jax.Array
    groups: jax.Array
    fab: jax.Array
    over: jax.Array
    group: jax.Array
    options: jax.Array
    preference: jax.Array
    active: jax.Array
    number: jax.Array
    gains: jax.Array


@struct.dataclass
class EnvParams:
    """A fab and what counts.

    Attributes:
      instance: the fab.
      weights: ``[5]`` float32 of `OBJECTIVES` in the reward.
      warmup: int32, ticks from an empty fab to the start of an episode, under the rule.
      horizon: int32, tick at which an episode ends.
      discount_time: float32, ticks after which a reward counts 1/e.
      day: float32, ticks of a day.
      scale: float32, ticks of a mean operation; rewards are per this time.
      reference: ``[5]`` float32: lots in the fab; weight of those; lots that leave per tick; power
        with all tools processing; tools. What an objective is divided by.
      max_steps_in_episode: int32, decisions after which an episode is cut.
    """

    instance: Instance
    weights: jax.Array
    warmup: jax.Array
    horizon: jax.Array
    discount_time: jax.Array
    day: jax.Array
    scale: jax.Array
    reference: jax.Array
    max_steps_in_episode: int = 1_000_000


@struct.dataclass
class Totals:
    """Sums since the start of an episode, in ticks; modulo 2^32, as only differences matter."""

    tick: jax.Array
    lot_time: jax.Array
    late: jax.Array
    finished: jax.Array
    processing: jax.Array
    setup: jax.Array
    down: jax.Array


@struct.dataclass
class EnvState:
    """Attributes: the fab; when each group chooses ``[G]`` and whether it does; sums up to now;
    steps taken."""

    fab: dynamics.State
    times: jax.Array
    active: jax.Array
    totals: Totals
    time: jax.Array


class FabEnv(Environment[EnvState, EnvParams]):
    """A fab with one agent per tool group.

    An action is ``[G]`` int32 (or a tuple of G scalars): the slot of the lot that each group
    starts, or N to wait. A group that is not asked is ignored; one that names a lot it cannot start
    does what the rule would.

    Args:
      fab: a name or file (see `library.load`), or a `Plan`.
      seed: which fab of a random family.
      days: of an episode.
      warmup: days before it, under the rule.
      may_wait: whether a group may wait although it could start a lot.
      rule: what dispatches where there is no choice, completes batches and says how large they must
        be; a name (see `rules.parse`) or a `Rule`.
      one_at_a_time: one group at a step, in order of time, rather than all that cannot influence
        each other before they dispatch.
    """

    def __init__(
        self,
        fab: Any = "seed-10x50",
        seed: int = 0,
        days: float = 10.0,
        warmup: float = 0.0,
        may_wait: bool = False,
        one_at_a_time: bool = False,
        rule: str | Rule = "FIFO",
    ) -> None:
        plan = library.load(fab, seed) if isinstance(fab, str) else fab
        self.rule = rules.parse(rule) if isinstance(rule, str) else rule
        self.may_wait = may_wait
        self.one_at_a_time = one_at_a_time or self.rule.looks_elsewhere
        self._default = make_params(plan, days, warmup)

    @property
    def default_params(self) -> EnvParams:
        return self._default

    @property
    def name(self) -> str:
        return "Fab"

    def reset_env(self, key: jax.Array, params: EnvParams) -> tuple[Any, EnvState]:
        window = Window(jnp.int32(0), params.horizon)
        fab = self.warm(key, params)._replace(window=window)
        nobody = jnp.zeros(params.instance.num_groups, jnp.int32)
        fab, times, active, _ = self._advance(params, fab, nobody, nobody > 0, nobody)
        totals = _totals(params.instance, fab, _tick(params, fab.lots, times))
        state = EnvState(fab, times, active, totals, jnp.int32(0))
        return self.observe(key, state, None, params), state

    def warm(self, key: jax.Array, params: EnvParams) -> dynamics.State:
        """The fab at the end of the warm-up, where its window ends."""
        instance = params.instance
        window = Window(jnp.int32(0), params.warmup)
        start = dynamics.init(instance, key, window, self.may_wait)
        return simulate.until_the_end(instance, self.rule, start, self.one_at_a_time)

    def step_env(
        self, key: jax.Array, state: EnvState, action: Any, params: EnvParams
    ) -> tuple[Any, EnvState, jax.Array, jax.Array, dict[str, Any]]:
        instance = params.instance
        chosen = jnp.stack(action) if isinstance(action, tuple) else jnp.asarray(action)
        chosen = chosen.astype(jnp.int32)
        fab, times, active, gains = self._advance(
            params, state.fab, state.times, state.active, chosen
        )
        totals = _totals(instance, fab, _tick(params, fab.lots, times))
        grown = jax.tree.map(lambda x, y: y - x, state.totals, totals)
        parts = objectives(params, _as_floats(grown))
        elapsed = (totals.tick - state.totals.tick).astype(jnp.float32)
        state = EnvState(fab, times, active, totals, state.time + 1)
        info = {
            "objectives": parts,
            "elapsed": elapsed,
            "time_discount": jnp.exp(-elapsed / params.discount_time),
            "too_few_slots": fab.late,
        }
        observation = self._see(state, params, gains)
        return observation, state, params.weights @ parts, self.is_terminated(state, params), info

    def is_terminated(self, state: EnvState, params: EnvParams) -> jax.Array:
        """Whether the last lot has left; where lots keep coming, never."""
        return self.empty(state.fab)

    def empty(self, fab: dynamics.State) -> jax.Array:
        """Whether the last lot of a list has left."""
        return (fab.lots.ready >= NEVER).all()

    def is_truncated(self, state: EnvState, params: EnvParams) -> jax.Array:
        over = state.totals.tick >= params.horizon
        return over | (state.time >= params.max_steps_in_episode)

    def observe(
        self, key: jax.Array, state: EnvState, action: Any, params: EnvParams
    ) -> Observation:
        return self._see(state, params, jnp.zeros(params.instance.slots))

    def _see(self, state: EnvState, params: EnvParams, gains: jax.Array) -> Any:
        queue = _queue(params.instance, state.fab, state.times, state.active)
        return observe(params, queue, self.rule, gains)

    def action_space(self, params: EnvParams) -> spaces.Tuple:
        lots = params.instance.slots + int(self.may_wait)
        return spaces.Tuple([spaces.Discrete(lots)] * params.instance.num_groups)

    def observation_space(self, params: EnvParams) -> spaces.Dict:
        lots, groups = params.instance.slots, params.instance.num_groups
        return spaces.Dict(
            {
                "lots": spaces.Box(-5.0, 5.0, (lots, len(LOT_FEATURES))),
                "groups": spaces.Box(-5.0, 5.0, (groups, len(GROUP_FEATURES))),
                "fab": spaces.Box(-5.0, 5.0, (len(FAB_FEATURES),)),
                "over": spaces.Box(0.0, 1.0, ()),
                "group": spaces.Box(0, groups, (lots,), jnp.int32),
                "options": spaces.Box(0, 1, (lots,), bool),
                "preference": spaces.Box(-10.0, 0.0, (lots,)),
                "active": spaces.Box(0, 1, (groups,), bool),
                "number": spaces.Box(-1, NEVER, (lots,), jnp.int32),
                "gains": spaces.Box(-5.0, 5.0, (lots,)),
            }
        )

    def deciding(self, params: EnvParams, act: Callable[[Observation], Any]) -> Rule:
        """Agents as a rule, for `simulate.run`: they choose there what they would choose here.

        Args:
          params: the fab, and the scales of what is seen.
          act: ``observation -> [G]`` int32, the agents' choices.
        """
        return _Deciding(params, act, self.rule, self.may_wait, self.one_at_a_time)

    def options(self, state: EnvState, params: EnvParams) -> jax.Array:
        """``[N]`` bool: the lots that their groups can start now."""
        queue = _queue(params.instance, state.fab, state.times, state.active)
        return self.rule.startable(queue)

    def _advance(
        self,
        params: EnvParams,
        fab: dynamics.State,
        times: jax.Array,
        active: jax.Array,
        chosen: jax.Array,
    ) -> tuple[dynamics.State, jax.Array, jax.Array, jax.Array]:
        """Does what was chosen, and goes on to the next step at which a group has a choice.

        Returns:
          The fab, when which groups choose, and what the lots that were in it gained.
        """
        instance, number = params.instance, fab.lots.number

        def goes_on(carry: Any) -> jax.Array:
            first, _, fab, times, active, _ = carry
            queue = _queue(instance, fab, times, active)
            options = self.rule.startable(queue)
            ways = queue.total(options.astype(jnp.int32)) + int(self.may_wait)
            choice = (options & (ways > 1)).any()
            return first | (~choice & (_tick(params, fab.lots, times) < params.horizon))

        def move(carry: Any) -> Any:
            # After the first time nobody is asked, and the rule makes the only move there is.
            _, chosen, fab, times, active, gains = carry
            start = _tick(params, fab.lots, times)
            queue = _queue(instance, fab, times, active)
            first, keys = self.rule(queue)
            leader = _follow(queue, chosen, self.rule.startable(queue), first, self.may_wait)
            fab, _ = dynamics.dispatch(instance, fab, queue, leader, keys)
            before = fab.lots
            ahead = self.rule.looks_ahead
            fab, queue = dynamics.advance(instance, fab, self.one_at_a_time, ahead)
            gained = _gains(params, before, start, _tick(params, fab.lots, queue.times))
            gains = gains + jnp.where(before.number == number, gained, 0.0)
            nobody = jnp.full_like(chosen, -1)
            return jnp.bool_(False), nobody, fab, queue.times, queue.active, gains

        begin = jnp.bool_(True), chosen, fab, times, active, jnp.zeros(instance.slots)
        _, _, fab, times, active, gains = jax.lax.while_loop(goes_on, move, begin)
        return fab, times, active, gains


def make_params(plan: Any, days: float = 10.0, warmup: float = 0.0) -> EnvParams:
    """Parameters of a fab, with the weights 0.4, 0.3, 0.15, 0.05 and 0.1 of `OBJECTIVES`.

    Args:
      plan: the fab.
      days: of an episode.
      warmup: days before it.
    """
    instance = plan.instance
    work = np.asarray(instance.done + instance.remaining - instance.work)[instance.first]
    # Where queues double the time in the fab: lots there, and the rate at which they leave.
    stay = 2.0 * float(work.mean())
    if isinstance(instance.releases, Conwip):
        lots = float(instance.slots)
        rate = lots / stay
    elif isinstance(instance.releases, Renewal):
        rates = 1 / np.asarray(instance.releases.between.mean, np.float64)
        rate, lots = float(rates.sum()), float(2.0 * (rates @ work))
    else:
        lots = float(instance.slots)
        rate = lots / stay
    tools = np.asarray(instance.tools).sum(1)
    orders = instance.orders
    weight = float(np.mean((orders.weight_low + orders.weight_high) / 2)) or 1.0
    power = 1.0
    if instance.energy is not None:
        power = float(np.asarray(instance.energy.processing) @ tools) or 1.0
    day = 86400 / plan.seconds
    return EnvParams(
        instance=jax.tree.map(jnp.asarray, instance),
        weights=jnp.array([0.4, 0.3, 0.15, 0.05, 0.1], jnp.float32),
        warmup=jnp.int32(round(warmup * day)),
        horizon=jnp.int32(round((warmup + days) * day)),
        discount_time=jnp.float32(10 * day),
        day=jnp.float32(day),
        scale=jnp.float32(np.asarray(instance.work).mean()),
        reference=jnp.array([lots, weight, rate, power, tools.sum()], jnp.float32),
    )


class _Deciding(Rule):
    """What `FabEnv.deciding` gives."""

    def __init__(
        self,
        params: EnvParams,
        act: Callable[[Observation], Any],
        rule: Rule,
        may_wait: bool,
        one_at_a_time: bool,
    ) -> None:
        super().__init__(*rule.keys, batching=rule.batching)
        self.params, self.act, self.rule, self.may_wait = params, act, rule, may_wait
        self.looks_elsewhere = one_at_a_time

    def __call__(self, queue: Queue) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        first, keys = self.rule(queue)
        nothing = jnp.zeros(queue.instance.slots)
        chosen = jnp.asarray(self.act(observe(self.params, queue, self.rule, nothing)))
        return _follow(queue, chosen, self.rule.startable(queue), first, self.may_wait), keys


def _follow(
    queue: Queue, chosen: jax.Array, options: jax.Array, first: jax.Array, may_wait: bool
) -> jax.Array:
    """The lots that groups start ``[G]``: those chosen where they are options, or the rule's."""
    slots = queue.instance.slots
    row = jnp.clip(chosen, 0, slots - 1)
    mine = queue.lots.group[row] == jnp.arange(queue.instance.num_groups)
    valid = (chosen >= 0) & (chosen < slots) & mine & options[row]
    waits = (chosen == slots) & may_wait
    return jnp.where(valid, row, jnp.where(waits, slots, first))


def _queue(instance: Instance, fab: dynamics.State, times: jax.Array, active: jax.Array) -> Queue:
    return Queue(instance, fab.lots, fab.tools, times, active, alone=True)


def _tick(params: EnvParams, lots: dynamics.Lots, times: jax.Array) -> jax.Array:
    """The tick up to which nothing can change any more, at most the horizon's."""
    leaving = lots.group == params.instance.num_groups
    exits = jnp.where(leaving, lots.ready, NEVER).min()
    return jnp.minimum(jnp.minimum(times.min(), exits), params.horizon)


def _totals(instance: Instance, fab: dynamics.State, tick: jax.Array) -> Totals:
    """Integrals up to `tick`; what has started by then is counted to its end."""
    lots, figures = fab.lots, fab.figures
    leaving = lots.group == instance.num_groups
    until = jnp.where(leaving, jnp.minimum(lots.ready, tick), tick)
    stay = jnp.maximum(until - jnp.maximum(lots.release, 0), 0)
    late = jnp.maximum(until - jnp.maximum(lots.due, lots.release), 0) * lots.weight
    unsigned = jnp.uint32
    return Totals(
        tick=tick,
        lot_time=figures.lot_time.low + stay.sum().astype(unsigned),
        late=figures.weighted_tardiness.low.sum() + late.sum().astype(unsigned),
        finished=figures.finished.sum(),
        processing=figures.processing.low,
        setup=figures.setup.low,
        down=figures.down.low,
    )


def _as_floats(totals: Totals) -> Totals:
    """Sums, or differences of them, that fit into 31 bits."""
    return jax.tree.map(lambda x: x.astype(jnp.int32).astype(jnp.float32), totals)


def objectives(params: EnvParams, delta: Totals) -> jax.Array:
    """``[5]`` what `OBJECTIVES` gained in an interval: larger is better, about 1 a mean operation.

    Minus the lots in the fab; minus their weight while overdue; lots that left; minus energy;
    tools in processing; each over its reference.

    Args:
      params: the fab.
      delta: by how much sums grew, float32.
    """
    lots, weight, rate, power, tools = params.reference
    gains = jnp.stack(
        [
            -delta.lot_time / lots,
            -delta.late / (lots * weight),
            delta.finished / rate,
            -energy(params, delta) / power,
            delta.processing.sum() / tools,
        ]
    )
    return gains / params.scale


def energy(params: EnvParams, delta: Totals) -> jax.Array:
    """What the tools used in an interval, in kW ticks; 0 where nothing is known of it."""
    power = params.instance.energy
    if power is None:
        return jnp.float32(0.0)
    each = params.instance.tools.sum(1) * delta.tick
    idle = each - delta.processing - delta.setup - delta.down
    used: jax.Array = (
        power.processing @ delta.processing
        + power.setup @ delta.setup
        + power.down @ delta.down
        + power.idle @ idle
    )
    return used


def _gains(params: EnvParams, lots: Any, start: jax.Array, end: jax.Array) -> jax.Array:
    """`Observation.gains` of lots between two ticks, after which slots may hold others."""
    groups = params.instance.num_groups
    until = jnp.where(lots.group == groups, jnp.minimum(lots.ready, end), end)
    stay = jnp.maximum(until - jnp.maximum(lots.release, start), 0)
    late = jnp.maximum(until - jnp.maximum(lots.due, start), 0) * lots.weight
    # Throughput counts as time in the fab, by Little's law: where releases are given it is what it
    # is, and where lots are constant, shorter stays are all that raises it. To reward a lot for
    # leaving says the same with far more noise.
    cost = (params.weights[0] + params.weights[2]) * stay
    cost += params.weights[1] * late / params.reference[1]
    return jnp.where(lots.ready < NEVER, -cost / params.day, 0.0)


def episode_return(
    params: EnvParams, fab: dynamics.State, before: dynamics.State | None = None
) -> jax.Array:
    """The sum of the rewards up to the end of a fab's window, which starts at 0.

    Of `simulate.run` as well, under any rule; from tick 0 and not from the first choice on.

    Args:
      params: what counts.
      fab: at the end of its window.
      before: the same fab at the end of an earlier one; then the sum from there on.
    """
    total = _since_zero(params, fab)
    if before is not None:
        total = jax.tree.map(jnp.subtract, total, _since_zero(params, before))
    return params.weights @ objectives(params, total)


def window_totals(params: EnvParams, fab: dynamics.State) -> Totals:
    """What a fab's window brought, as floats; of lots still in the fab their time, but not how
    late they are."""
    figures, lots, window = fab.figures, fab.lots, fab.window
    leaving = lots.group == params.instance.num_groups
    until = jnp.where(leaving, jnp.minimum(lots.ready, window.end), window.end)
    here = jnp.maximum(until - jnp.maximum(lots.release, window.start), 0)
    return Totals(
        tick=(window.end - window.start).astype(jnp.float32),
        lot_time=figures.lot_time.as_float() + here.sum().astype(jnp.float32),
        late=figures.weighted_tardiness.as_float().sum(),
        finished=figures.finished.sum().astype(jnp.float32),
        processing=figures.processing.as_float(),
        setup=figures.setup.as_float(),
        down=figures.down.as_float(),
    )


def _since_zero(params: EnvParams, fab: dynamics.State) -> Totals:
    """Sums up to the end of a fab's window, as floats of any size."""
    figures = fab.figures
    started = fab._replace(figures=Figures.zeros(params.instance))
    inside = _as_floats(_totals(params.instance, started, fab.window.end))
    late = figures.weighted_tardiness.as_float().sum()
    return Totals(
        tick=inside.tick,
        lot_time=inside.lot_time + figures.lot_time.as_float(),
        late=inside.late + late,
        finished=figures.finished.sum().astype(jnp.float32),
        processing=figures.processing.as_float(),
        setup=figures.setup.as_float(),
        down=figures.down.as_float(),
    )


def observe(params: EnvParams, queue: Queue, rule: Rule, gains: jax.Array) -> Observation:
    """What the agents see.

    Args:
      params: the fab, and the scales of what is seen.
      queue: what waits.
      rule: says which lots can start, and what it would choose.
      gains: ``[N]`` float32, see `Observation`.
    """
    instance, lots, tools_now = params.instance, queue.lots, queue.tools
    options = rule.startable(queue)
    groups = instance.num_groups
    tick = _tick(params, lots, queue.times)
    here = lots.group < groups
    now = jnp.where(here, jnp.where(queue.now < NEVER, jnp.maximum(queue.now, tick), tick), tick)
    scale = params.scale
    inside = (lots.release <= now) & (lots.ready < NEVER)
    ratio = lambda x, y: jnp.asarray(x, jnp.float32) / jnp.asarray(y, jnp.float32)  # noqa: E731
    spare = lots.due - now - queue.remaining
    slack = ratio(spare, jnp.maximum(queue.remaining, 1))
    for_this = jnp.maximum(queue.operation_due - now - queue.work, 0)
    tools = instance.tools.sum(1)
    waits = here & (lots.ready <= now) & inside
    coming = here & (lots.ready > now) & inside
    work = jnp.where(here, queue.work, 0)

    def by_group(values: jax.Array) -> jax.Array:
        zeros = jnp.zeros(groups, jnp.float32)
        return zeros.at[lots.group].add(values.astype(jnp.float32), mode="drop")

    load = ratio(by_group(waits * work), tools * scale)
    following = instance.group[jnp.where(queue.left > 1, lots.op + 1, lots.op)]
    ahead = jnp.where(queue.left > 1, load[following], 0.0)
    weight = ratio(lots.weight, params.reference[1])
    slowly, fast = (
        jnp.where(inside, weight / 3 * jnp.exp(-k * jnp.maximum(slack, 0)), 0.0) for k in (2, 10)
    )
    overdue = inside & (lots.due < now)
    urgent = inside & ((slack < 0) | (lots.weight > 3 * params.reference[1]))
    columns = [
        options,
        jnp.log(jnp.maximum(ratio(work, scale), 0.01)),
        jnp.log1p(ratio(jnp.maximum(now - lots.ready, 0), scale)),
        jnp.tanh(slack / 2),
        jnp.tanh(slack * 2),
        ratio(spare, params.day),
        jnp.log1p(ratio(queue.remaining, params.day)),
        ratio(queue.remaining, queue.remaining + queue.done),
        jnp.log1p(ratio(for_this, scale)) / 2,
        weight / 3,
        jnp.log(jnp.maximum(weight, 0.01)),
        ratio(jnp.where(options, queue.setup, 0), scale),
        jnp.where(options, queue.fullness, 0.0),
        jnp.log1p(ahead),
        jnp.exp(-ahead),
        jnp.log1p(ratio(jnp.maximum(now - lots.release, 0), scale)) / 2,
        jnp.log1p(ratio(jnp.maximum(now - lots.due, 0), params.day)),
        slowly,
        fast,
        queue.of_batch(jnp.where(options, slowly, 0.0)),
        queue.of_batch(jnp.where(options, fast, 0.0)),
    ]
    seen = jnp.stack([c.astype(jnp.float32) for c in columns], -1)
    seen = jnp.where(inside[:, None], jnp.clip(jnp.nan_to_num(seen), -5, 5), 0.0)
    at = jnp.maximum(jnp.minimum(queue.times, params.horizon), tick)
    free = instance.tools & (tools_now.free <= at[:, None])
    ready_setup = jnp.zeros(groups, jnp.float32)
    if instance.setups is not None:
        ready_setup = by_group(options & (queue.setup == 0)) / jnp.maximum(by_group(options), 1)
    service = jnp.full(groups, 5.0)
    if instance.maintenance is not None:
        due = jnp.where(instance.tools, tools_now.service_at, NEVER).min(1)
        service = jnp.log1p(ratio(jnp.maximum(due - at, 0), scale))
    shift = jnp.zeros(groups)
    if instance.shifts is not None:
        shift = ratio(dynamics.on_shift(instance, at) - at, params.day)
    group_columns = [
        queue.active,
        jnp.log1p(by_group(waits)),
        jnp.log1p(load),
        ratio(free.sum(1), tools),
        ready_setup,
        jnp.log1p(ratio(by_group(coming * work), tools * scale)),
        jnp.log1p(by_group(coming & urgent)),
        service,
        shift,
    ]
    seen_groups = jnp.stack([c.astype(jnp.float32) for c in group_columns], -1)
    phase = 2 * jnp.pi * jnp.fmod(tick.astype(jnp.float32), params.day) / params.day
    calendar = jnp.zeros(())
    if instance.shifts is not None:
        calendar = 2 * jnp.pi * ratio(tick % instance.shifts.period, instance.shifts.period)
    count = inside.sum()
    seen_fab = jnp.stack(
        [
            jnp.sin(phase),
            jnp.cos(phase),
            jnp.sin(calendar),
            jnp.cos(calendar),
            jnp.log1p(ratio(count, params.reference[0])),
            ratio(overdue.sum(), jnp.maximum(count, 1)),
        ]
    )
    return Observation(
        lots=seen,
        groups=jnp.clip(seen_groups, -5, 5),
        fab=jnp.clip(seen_fab, -5, 5),
        over=ratio(tick, params.horizon),
        group=lots.group,
        options=options,
        preference=jnp.where(options, rule.preference(queue, *rule(queue)), -10.0),
        active=queue.active,
        number=jnp.where(inside, lots.number, -1),
        gains=gains,
    )


class FlatFabEnv(FabEnv):
    """The same fab for one agent that dispatches one lot at a time.

    An action is the slot of a lot; one that the group cannot start counts as the lot that came
    first. The observation is one vector: `Observation.lots`, ``groups`` and ``fab``.

    Args:
      fab, seed, days: as `FabEnv`'s.
    """

    def __init__(self, fab: Any = "seed-10x50", seed: int = 0, days: float = 10.0) -> None:
        super().__init__(fab, seed, days, one_at_a_time=True)

    def step_env(
        self, key: jax.Array, state: EnvState, action: Any, params: EnvParams
    ) -> tuple[Any, EnvState, jax.Array, jax.Array, dict[str, Any]]:
        everyone = jnp.full(params.instance.num_groups, action, jnp.int32)
        return super().step_env(key, state, everyone, params)

    def _see(self, state: EnvState, params: EnvParams, gains: jax.Array) -> Any:
        seen = super()._see(state, params, gains)
        return jnp.concatenate([seen.lots.ravel(), seen.groups.ravel(), seen.fab])

    def action_space(self, params: EnvParams) -> Any:
        return spaces.Discrete(params.instance.slots)

    def observation_space(self, params: EnvParams) -> Any:
        lots, groups = params.instance.slots, params.instance.num_groups
        size = lots * len(LOT_FEATURES) + groups * len(GROUP_FEATURES) + len(FAB_FEATURES)
        return spaces.Box(-5.0, 5.0, (size,))
