"""The simulator against an independent model in SimPy, dispatch by dispatch.

Random fabs of a dozen structures, which between them use every feature, under all rules; within a
structure all values are random. Every dispatch must be the same: lot, operation, group,
tool, and the ticks of start, setup and end; so must the integrals over the window.
"""

import functools
import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from envs.fab import describe, dynamics, figures, instance, rules
from envs.fab import simulate as sim
from tests import fab_simpy

FABS = 16  # per structure, each with a rule of its own, all of them in one program
FEATURES = (
    "transport setups batches minimum calendar busy service pieces shifts rework sampling "
    "hot spread"
)
START, END = 300, 3000  # the window
KINDS = ("deterministic", "uniform", "lognormal", "exponential", "gamma")

# Features, releases, kinds of times; whether groups dispatch one at a time.
STRUCTURES: list[tuple[str, str, tuple[str, ...], bool]] = [
    ("", "conwip", ("deterministic",), False),
    ("transport hot", "poisson", ("exponential", "uniform"), False),
    ("setups hot", "conwip", ("deterministic", "lognormal"), False),
    ("batches transport", "poisson", ("uniform",), False),
    ("batches minimum setups", "conwip", ("deterministic",), True),
    ("calendar", "periodic", ("uniform",), False),
    ("busy transport", "conwip", ("gamma", "exponential"), False),
    ("service pieces", "poisson", ("deterministic",), True),
    ("calendar busy service pieces", "conwip", ("uniform",), False),
    ("shifts transport", "list", ("lognormal",), True),
    ("rework sampling hot transport", "conwip", ("deterministic",), False),
    (FEATURES, "conwip", KINDS, False),
    (FEATURES.removesuffix(" spread"), "poisson", ("deterministic", "lognormal"), True),
]
# Every key there is; the last one sees other groups' queues.
CHOICES = [name for name in fab_simpy.KEYS if name not in ("setup", "weight", "PT+WINQ")]


class Choice(NamedTuple):
    """The rule of one fab, as data: setup first, weight first, a key, the least part of a batch."""

    setup: jax.Array
    weight: jax.Array
    key: jax.Array
    at_least: jax.Array
    patience: jax.Array


def choices(index: int) -> tuple[Choice, list[list[str]]]:
    """Rules of a structure's fabs, and the names of their keys."""
    rng = np.random.default_rng([7, index])
    names = [*CHOICES, *["PT+WINQ"] * STRUCTURES[index][3]]
    keys = [names[(index * FABS + i) % len(names)] for i in range(FABS)]
    if STRUCTURES[index][3]:
        keys[::5] = ["PT+WINQ"] * len(keys[::5])
    setup, weight = rng.integers(2, size=(2, FABS))
    named = [
        ["setup"] * s + ["weight"] * w + [k]
        for s, w, k in zip(setup.tolist(), weight.tolist(), keys, strict=True)
    ]
    at_least = rng.choice(np.float32([0, 0.125, 0.5, 0.625]), FABS)
    patience = rng.choice(np.float32([0, 1, 4]), FABS)
    numbers = [names.index(key) for key in keys]
    return Choice(*map(jnp.asarray, (setup, weight, numbers, at_least, patience))), named


def rule_of(choice: Choice, index: int) -> rules.Rule:
    """The rule that a `Choice` says. Keys are float32, exact for ticks below 2^24."""
    names = [*CHOICES, *["PT+WINQ"] * STRUCTURES[index][3]]

    def chosen(queue: Any) -> jax.Array:
        keys = [rules.parse(name).keys[0](queue) for name in names]
        # The upper bits of random words are as random, and exact.
        keys = [k >> 8 if k.dtype == jnp.uint32 else k for k in keys]
        return jnp.stack([k.astype(jnp.float32) for k in keys])[choice.key]

    if STRUCTURES[index][3]:
        chosen = rules.looks_elsewhere(chosen)
    return rules.Rule(
        lambda queue: queue.setup * choice.setup,
        lambda queue: -queue.weight * choice.weight,
        chosen,
        # Which family goes first is fixed in a program, so structures take turns.
        batching=rules.Batching(index % 2 == 0, choice.at_least, choice.patience),
    )


def random_fab(rng: np.random.Generator, features: str, releases: str, kinds: Any) -> dict:
    """A small fab with few ticks to each time, so that many things happen at once."""
    has = features.split()
    num = lambda low, high: int(rng.integers(low, high, endpoint=True))  # noqa: E731

    def time(low: int, high: int, kind: str | None = None) -> Any:
        kind = str(rng.choice(kinds)) if kind is None else kind
        mean = num(low, high)
        if kind == "deterministic":
            return mean
        cv = 0.5 if kind == "uniform" else float(rng.uniform(0.2, 1.2))
        return {"mean": mean, "kind": kind, "cv": cv}

    groups: dict[str, Any] = {}
    for g in range(3):
        table: dict[str, Any] = {"tools": [2, 1, 3][g]}
        if "setups" in has and g != 1:
            states = ["s0", "s1", "s2"]
            table["setups"] = {a: {b: num(0, 6) * (a != b) for b in states} for a in states}
            table["setup"] = "s0"
        if "calendar" in has and g in (0, 1):
            table["breakdown"] = {"until": time(30, 90), "repair": time(2, 20)}
        if "busy" in has and g == 2:
            table["breakdown"] = {"until": time(20, 60), "repair": time(2, 20), "clock": "busy"}
        if "service" in has and g != 2:
            table["maintenance"] = {"every": num(40, 90), "takes": time(3, 12)}
        if "pieces" in has and g != 1:
            plan = {"pieces": num(3, 9), "pieces_take": time(2, 9)}
            table["maintenance"] = {**table.get("maintenance", {}), **plan}
        if "shifts" in has and g != 0:
            first = num(0, 20)
            table["shifts"] = [[first, first + num(20, 60)], [100, num(130, 160)]]
        groups[f"g{g}"] = table
    products: dict[str, Any] = {}
    recipes = {r: (time(8, 20), num(2, 4)) for r in range(3)}
    for p in range(2):
        route: list[dict[str, Any]] = []
        for i in range(7):
            g = num(0, 2)
            entry: dict[str, Any] = {"group": f"g{g}", "time": time(2, 14)}
            if "batches" in has and g == 2 and num(0, 2):
                recipe = num(0, 2)
                entry["time"], largest = recipes[recipe]
                entry |= {"batch": f"r{recipe}", "batch_max": largest}
                if "minimum" in has:
                    entry["batch_min"] = min(2, largest)
                if "setups" in has:
                    entry["setup"] = f"s{recipe}"
            elif "setups" in has and g != 1 and num(0, 3):
                entry["setup"] = f"s{num(0, 2)}"
            if "transport" in has and num(0, 1):
                entry["transport"] = num(1, 5)
            if "rework" in has and num(0, 2) == 0:
                entry["rework"] = {"probability": 0.2, "to": num(1, i + 1)}
            if "sampling" in has and i > 0 and num(0, 2) == 0:
                entry["sampling"] = 0.5
            route.append(entry)
        # Every structure keeps its features whatever was drawn.
        if "batches" in has:
            least = 1 + ("minimum" in has)
            sizes = {"batch": "r0", "batch_max": recipes[0][1], "batch_min": least}
            route[5] = {"group": "g2", "time": recipes[0][0], **sizes}
            if "setups" in has:
                route[5]["setup"] = "s0"
            for entry in route:
                if entry.get("batch") == "r0":
                    entry["batch_max"] = route[5]["batch_max"]
                    entry["batch_min"] = route[5]["batch_min"]
        if "transport" in has:
            route[0]["transport"] = 2
        if "rework" in has:
            route[3]["rework"] = {"probability": 0.2, "to": 2}
        if "sampling" in has:
            route[4]["sampling"] = route[5]["sampling"] = 0.5
        if "setups" in has:
            route[2] |= {"group": "g0", "setup": "s1", "time": time(2, 14)}
            for name in ("batch", "batch_min", "batch_max"):
                route[2].pop(name, None)
        products[f"p{p}"] = {"route": route, "due_factor": [1.2, 4], "weight": [1, 5]}
        if "hot" in has:
            hot = {"probability": 0.2, "due_factor": 1.1, "weight": 9}
            products[f"p{p}"]["hot"] = hot
        if releases in ("poisson", "periodic"):
            kind = {"poisson": "exponential", "periodic": "deterministic"}[releases]
            mean = num(60, 90) + 60 * (len(has) > 3)
            products[f"p{p}"]["release"] = {"mean": mean, "kind": kind}
            if releases == "periodic":
                products[f"p{p}"]["release"]["first"] = num(0, 9)
    fab: dict[str, Any] = {
        "ticks": 1, "groups": groups, "products": products, "shift_period": 168, "any_load": True,
    }  # fmt: skip
    if releases == "conwip":
        fab |= {"conwip": 9, "spread": "spread" in has}
    elif releases == "list":
        fab["releases"] = [[num(0, 30) * i // 2, f"p{num(0, 1)}"] for i in range(60)]
    else:
        fab["slots"] = 60
    return fab


def plans_of(index: int) -> list[describe.Plan]:
    features, releases, kinds, _ = STRUCTURES[index]
    rng = np.random.default_rng(index)
    return [describe.Plan(random_fab(rng, features, releases, kinds)) for _ in range(FABS)]


class Run(NamedTuple):
    """Fabs of a structure, and all that they did."""

    fabs: instance.Instance
    names: list[list[str]]
    choice: Choice
    state: Any
    moves: Any


@functools.cache
def run(index: int, one_at_a_time: bool = False) -> Run:
    """Runs a structure's fabs to the end of the window."""
    fabs = jax.tree.map(jnp.asarray, instance.stack([plan.instance for plan in plans_of(index)]))
    choice, names = choices(index)
    window = figures.Window(jnp.int32(START), jnp.int32(END))

    @jax.jit
    def simulate(fabs: Any, choice: Choice, keys: Any) -> Any:
        state = sim.start(fabs, keys, window, batched=True)

        def one(fab: Any, choice: Choice, state: Any) -> Any:
            return dynamics.step(fab, rule_of(choice, index), state, one_at_a_time)

        def body(state: Any, _: Any) -> Any:
            return jax.vmap(one)(fabs, choice, state)

        return jax.lax.scan(body, state, length=4000)

    state, moves = simulate(fabs, choice, keys_of())
    assert jax.vmap(dynamics.finished)(fabs, state).all(), "more steps are needed"
    return Run(fabs, names, choice, state, jax.tree.map(np.asarray, moves))


def keys_of() -> jax.Array:
    return jax.random.split(jax.random.key(5), FABS)


def dispatches(moves: Any, fab: int) -> list[fab_simpy.Dispatch]:
    """Those of one fab that ended before the horizon, in a fixed order."""
    one = jax.tree.map(lambda x: x[:, fab], moves)
    columns = [getattr(one, name) for name in fab_simpy.Dispatch._fields]
    rows = np.stack(columns, axis=-1)[one.moved]
    return sorted(fab_simpy.Dispatch(*map(int, row)) for row in rows if row[-1] < END)


def model(done: Run, fab: int, index: int) -> fab_simpy.Fab:
    """The same fab in SimPy."""
    made = fab_simpy.Fab(
        jax.tree.map(lambda x: x[fab], done.fabs),
        keys_of()[fab],
        [fab_simpy.KEYS[name] for name in done.names[fab]],
        complete_first=index % 2 == 0,
        at_least=float(done.choice.at_least[fab]),
        end=END,
        patience=float(done.choice.patience[fab]),
    )
    made.run()
    return made


# The slow ones have nothing that the others are without.
@pytest.mark.parametrize(
    "index",
    [
        pytest.param(index, marks=pytest.mark.slow if index not in (3, 5, 9, 11, 12) else [])
        for index in range(len(STRUCTURES))
    ],
)
def test_dispatches_are_simpys(index: int) -> None:
    done = run(index)
    assert not done.state.late.any()
    total = 0
    for fab in range(FABS):
        other = model(done, fab, index)
        ours, theirs = dispatches(done.moves, fab), sorted(other.dispatches)
        wrong = sorted({*ours} ^ {*theirs}, key=lambda d: (d.start, d.number))
        assert (wrong[:2], len(ours)) == ([], len(theirs)), (fab, done.names[fab])
        check_figures(done.state, fab, other)
        total += len(theirs)
    assert total > 250 * FABS


def check_figures(state: Any, fab: int, other: fab_simpy.Fab) -> None:
    """Integrals over the window equal those of the model's own past."""
    found = jax.tree.map(lambda x: x[fab], state.figures)
    left = [lot for lot in other.lots if lot.left is not None and START < lot.left < END]
    for product in range(2):
        mine = [lot for lot in left if lot.product == product]
        assert int(found.finished[product]) == len(mine)
        late = [max(0, lot.left - lot.due) for lot in mine]
        assert int(found.on_time[product]) == sum(x == 0 for x in late)
        assert int(found.cycle_time.numpy()[product]) == sum(x.left - x.release for x in mine)
        assert int(found.tardiness.numpy()[product]) == sum(late)
        weighted = sum(x * lot.weight for x, lot in zip(late, mine, strict=True))
        assert int(found.weighted_tardiness.numpy()[product]) == weighted
    ended = [d for d in other.dispatches if START < d.end < END]
    ticks = fab_simpy.integrals(other, START)
    for group in range(other.groups):
        # What ends exactly at the horizon is the simulator's, and not yet the model's.
        at_end = int(found.moves[group]) - sum(d.group == group for d in ended)
        assert 0 <= at_end <= 8
        # Of what is still going on at the horizon the model has no past yet.
        for name in ("setup", "processing", "down"):
            ours = int(getattr(found, name).numpy()[group])
            slack = ours - int(ticks[name][group])
            assert 0 <= slack <= 3 * 150, (name, group, slack)
            if all(tool.idle for tool in other.tools[group]):
                assert slack == 0, (name, group)


@pytest.mark.parametrize(
    ("index", "part"),
    [
        (3, 0.8),
        pytest.param(11, 0.9, marks=pytest.mark.slow),
        *(pytest.param(index, 0.8, marks=pytest.mark.slow) for index in (2, 8, 10)),
    ],
)
def test_one_dispatch_at_a_time_is_the_same(index: int, part: float) -> None:
    """Letting many groups dispatch in one step changes nothing, and takes a part of the steps; a
    larger one where groups with batches look ahead."""
    many, one = run(index), run(index, one_at_a_time=True)
    for fab in range(FABS):
        assert dispatches(many.moves, fab) == dispatches(one.moves, fab)
    for x, y in zip(
        jax.tree.leaves(many.state.figures), jax.tree.leaves(one.state.figures), strict=True
    ):
        np.testing.assert_array_equal(x, y)
    steps = [int(r.moves.moved.any(-1).sum()) for r in (many, one)]
    assert steps[0] < part * steps[1]


@pytest.mark.parametrize("index", [3, pytest.param(11, marks=pytest.mark.slow)])
def test_vmapped_fabs_do_what_they_do_alone(index: int) -> None:
    together = run(index)
    window = figures.Window(jnp.int32(START), jnp.int32(END))

    @jax.jit
    def simulate(fab: Any, choice: Choice, key: Any) -> Any:
        def body(state: Any, _: Any) -> Any:
            return dynamics.step(fab, rule_of(choice, index), state)

        return jax.lax.scan(body, dynamics.init(fab, key, window), length=1000)

    for fab in (0, 5):
        pick = functools.partial(jax.tree.map, lambda x, fab=fab: x[fab])
        _, moves = simulate(pick(together.fabs), pick(together.choice), keys_of()[fab])
        for name in dynamics.Moves._fields:
            moved = np.asarray(moves.moved)
            ours, theirs = (
                getattr(together.moves, name)[:1000, fab],
                np.asarray(getattr(moves, name)),
            )
            np.testing.assert_array_equal(ours[moved], theirs[moved], err_msg=name)


def test_jit_is_no_jit() -> None:
    plan = plans_of(0)[0]
    fab = jax.tree.map(jnp.asarray, plan.instance)
    window = figures.Window(jnp.int32(0), jnp.int32(END))
    rule = rules.parse("EDD")
    state = dynamics.init(fab, jax.random.key(0), window)
    jitted = jax.jit(lambda state: dynamics.step(fab, rule, state))
    for _ in range(5):
        expected, moves = jitted(state)
        with jax.disable_jit():
            state, plain = dynamics.step(fab, rule, state)
        for x, y in zip(
            jax.tree.leaves((expected, moves)), jax.tree.leaves((state, plain)), strict=True
        ):
            np.testing.assert_array_equal(x, y)


def test_two_rules_see_the_same_draws() -> None:
    """Lots, processing times and failures belong to entities, not to the order of events."""
    features, releases, kinds, _ = STRUCTURES[1]
    rng = np.random.default_rng(3)
    plan = describe.Plan(random_fab(rng, f"{features} calendar", releases, kinds))
    fab = jax.tree.map(jnp.asarray, plan.instance)
    window = figures.Window(jnp.int32(0), jnp.int32(END))

    def lots(name: str) -> tuple[dict[int, tuple[int, ...]], dict[tuple[int, int], int]]:
        rule = rules.parse(name)
        state = dynamics.init(fab, jax.random.key(1), window)

        def body(state: Any, _: Any) -> Any:
            after, moves = dynamics.step(fab, rule, state)
            return after, (state.lots, moves)

        _, (seen, moves) = jax.jit(lambda s: jax.lax.scan(body, s, length=1500))(state)
        seen, moves = jax.tree.map(np.asarray, (seen, moves))
        orders = {
            int(n): tuple(map(int, row))
            for n, *row in zip(
                seen.number.ravel(), seen.release.ravel(), seen.due.ravel(), seen.weight.ravel(),
                strict=True,
            )
        }  # fmt: skip
        took = {
            (int(n), int(op)): int(time)
            for n, op, time in zip(
                moves.number[moves.moved], moves.op[moves.moved], seen.processing[moves.moved],
                strict=True,
            )
        }  # fmt: skip
        return orders, took

    (orders, took), (others, taken) = lots("SPT"), lots("LIFO")
    shared, both = orders.keys() & others.keys(), took.keys() & taken.keys()
    assert len(shared) > 40
    assert len(both) > 200
    assert all(orders[n] == others[n] for n in shared)
    assert all(took[n] == taken[n] for n in both)


@pytest.mark.parametrize("index", [3, pytest.param(8, marks=pytest.mark.slow), 11])
def test_invariants(index: int) -> None:
    """What must hold in any fab: of lots, tools, batches, times and integrals."""
    done = run(index)
    fabs, moves, state = jax.tree.map(np.asarray, (done.fabs, done.moves, done.state))
    for fab in range(FABS):
        by_tool: dict[tuple[int, int], dict[int, list[tuple[int, ...]]]] = {}
        by_lot: dict[int, list[tuple[int, int]]] = {}
        one = jax.tree.map(lambda x, fab=fab: x[:, fab], moves)
        for n, op, g, t, start, end in zip(
            *(getattr(one, name)[one.moved] for name in
              ("number", "op", "group", "tool", "start", "end")), strict=True,
        ):  # fmt: skip
            by_tool.setdefault((int(g), int(t)), {}).setdefault(int(start), []).append((end, op))
            by_lot.setdefault(int(n), []).append((int(start), int(end)))
            assert fabs.group[fab][op] == g
            assert fabs.tools[fab][g, t]
        for (group, tool), runs in by_tool.items():
            before = 0
            for start in sorted(runs):
                ends, ops = zip(*runs[start], strict=True)
                assert before <= start < ends[0] < instance.NEVER, (group, tool)
                assert len(set(ends)) == 1
                before = ends[0]
                if fabs.batches is None:
                    assert len(ops) == 1
                    continue
                family = {int(fabs.batches.family[fab][op]) for op in ops}
                assert len(family) == 1
                assert fabs.batches.minimum[fab][ops[0]] <= len(ops)
                assert len(ops) <= fabs.batches.maximum[fab][ops[0]]
        for spans in by_lot.values():
            assert all(a[1] <= b[0] for a, b in itertools.pairwise(spans))
        # Lots are those that left and those in their slots.
        left = int(state.figures.finished[fab].sum())
        assert int(state.count[fab]) >= left + int(fabs.slots) * (left > 0)
        assert len(set(state.lots.number[fab].tolist())) == fabs.slots
        # No tool does more than there is time for.
        used = sum(
            getattr(done.state.figures, name).numpy()[fab]
            for name in ("processing", "setup", "down")
        )
        assert (used <= fabs.tools[fab].sum(1) * (END - START)).all()


def test_too_few_slots_are_told() -> None:
    plan = {
        "groups": {"g": {}},
        "products": {"p": {"route": [["g", 10]], "release": 11}},
        "slots": 1,
    }
    window = figures.Window(jnp.int32(0), jnp.int32(3000))

    def late(description: dict[str, Any]) -> bool:
        fab = jax.tree.map(jnp.asarray, describe.Plan(description).instance)

        @jax.jit
        def run(keys: jax.Array) -> Any:
            return sim.run(fab, rules.parse("FIFO"), sim.start(fab, keys, window))

        return bool(run(jax.random.split(jax.random.key(0), 1)).late[0])

    assert not late(plan)
    route = [["g", 10], {"group": "h", "time": 10}]
    plan |= {"groups": {"g": {}, "h": {}}, "products": {"p": {"route": route, "release": 11}}}
    assert late(plan)
    assert not late({**plan, "slots": 2})
    # A batch that never fills frees no slot at all.
    batch = {"group": "g", "time": 5, "batch": "b", "batch_min": 3, "batch_max": 3}
    plan |= {"products": {"p": {"route": [batch], "release": 10}}}
    assert late({**plan, "slots": 2})
    assert not late({**plan, "slots": 3})
