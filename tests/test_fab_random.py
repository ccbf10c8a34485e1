"""The simulator against the model in SimPy, on fabs of many shapes, to the last tick of the window.

`test_fab_dynamics` covers every rule on fabs of one size. Here the sizes differ as well: 2 to 6
groups, 1 to 3 tools in each, 1 to 3 products, routes of 2 to 12 operations; so does what a feature
may look like (setups from no state, families next to single lots, windows that touch, maintenance
due at tick 0, operations that are never done, lots without weight). Times are a few ticks, so that
much falls on one tick. Each fab runs with a rule as users write it, and what is still going on at
the horizon is compared too.
"""

import functools
import itertools
import re
from collections import defaultdict
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from envs.fab import describe, draws, dynamics, figures, instance, rules
from envs.fab import simulate as sim
from tests import fab_simpy

START, END = 200, 1000  # the window
FABS = 10  # of a structure, all in one program
STEPS = 250  # in one call
# The model goes on until all that began before the horizon is over.
TAIL = 400


class Structure(NamedTuple):
    """What the fabs of one program have in common; `rule` as `rules.parse` takes it."""

    features: str
    releases: str
    groups: int
    products: int
    kinds: str
    rule: str


ALL = "transport setups batches calendar busy service pieces shifts rework sampling hot"
EVERY = "deterministic uniform lognormal exponential"
STRUCTURES = [
    Structure("", "conwip", 2, 1, "deterministic", "FIFO"),
    Structure("transport setups hot", "renewal", 6, 3, "exponential", "WMOD"),
    Structure("transport setups batches", "spread", 4, 2, "deterministic", "setup > weight > FIFO"),
    Structure("calendar service pieces", "list", 3, 3, "uniform", "random"),
    Structure("setups calendar busy", "conwip", 5, 1, "lognormal deterministic", "ATC(2)"),
    Structure("batches service shifts", "renewal", 2, 2, "deterministic", "MOD @ 0.625 wait 2"),
    Structure("transport shifts rework sampling", "renewal", 4, 3, "lognormal", "CR"),
    Structure("batches transport", "conwip", 3, 3, "deterministic uniform", "LIFO > SPT wait 3"),
    Structure(ALL, "spread", 6, 2, EVERY, "setup > weight > EDD @ 0.5 wait 1"),
    Structure(ALL, "renewal", 3, 2, "deterministic exponential", "PT+WINQ"),
    Structure(ALL, "list", 4, 1, EVERY, "evolved20(10)"),
]
PLACES = {"conwip": 8, "spread": 8, "renewal": 40, "list": 40}  # slots


def describe_fab(rng: np.random.Generator, structure: Structure) -> dict[str, Any]:
    """A random fab of a structure. Everything that `has` a chance also happens at least once."""
    has, places = set(structure.features.split()), PLACES[structure.releases]
    num = lambda low, high: int(rng.integers(low, high, endpoint=True))  # noqa: E731
    maybe = lambda chance: bool(rng.random() < chance)  # noqa: E731

    def time(low: int, high: int) -> Any:
        kind = str(rng.choice(structure.kinds.split()))
        cv = {"uniform": 0.55}.get(kind, float(rng.uniform(0.2, 1.2)))
        return {"mean": num(low, high), "kind": kind, "cv": cv}

    groups: dict[str, Any] = {}
    for g in range(structure.groups):
        # The first has all features, so that every fab has them, and as many tools as any.
        has_one = lambda what, g=g: what in has and (g == 0 or maybe(0.5))  # noqa: E731
        table: dict[str, Any] = {"tools": 3 if g == 0 else num(1, 3)}
        if "setups" in has:
            states = ["a", "b", "c"]
            table["setups"] = num(0, 5)
            if maybe(0.7):
                # From a state to itself takes time now and then.
                table["setups"] = {
                    s: {t: num(0, 6) if s != t else num(0, 8) // 8 for t in states} for s in states
                }
            if maybe(0.5):
                table["setup"] = "a"
        if has_one("calendar"):
            table["breakdown"] = {"until": time(15, 80), "repair": time(1, 15)}
        if ("busy" in has and "breakdown" not in table) or (g == 1 and "busy" in has):
            table["breakdown"] = {"until": time(10, 60), "repair": time(1, 15), "clock": "busy"}
        if has_one("service"):
            table["maintenance"] = {"every": num(20, 90), "takes": time(1, 12)}
            if maybe(0.5):
                table["maintenance"]["first"] = num(0, 20)
        if has_one("pieces"):
            plan = {"pieces": num(1, 9), "pieces_take": time(1, 9)}
            table["maintenance"] = {**table.get("maintenance", {}), **plan}
        if has_one("shifts"):
            a, b, c = sorted(rng.choice(np.arange(1, 60), 3, replace=False).tolist())
            options = [[[0, b]], [[a, b], [b, c]], [[0, a], [b, c]], [[c, 60], [a, b]], [[a, 60]]]
            table["shifts"] = options[num(0, 4)]
        groups[f"g{g}"] = table
    recipes = [
        {"group": f"g{num(0, structure.groups - 1)}", "batch": f"r{i}", "batch_min": num(1, 3)}
        for i in range(3)
    ]
    for i, recipe in enumerate(recipes):
        recipe["batch_max"] = recipe["batch_min"] + num(0, 2) + (i == 0)
        if "setups" in has and maybe(0.5):
            recipe["setup"] = "abc"[i]
    products: dict[str, Any] = {}
    for p in range(structure.products):
        route: list[dict[str, Any]] = []
        length = num(2, 12)
        for i in range(length):
            entry: dict[str, Any] = {"group": f"g{num(0, structure.groups - 1)}"}
            entry["time"] = time(1, 8)
            if "setups" in has and maybe(0.7):
                entry["setup"] = "abc"[num(0, 2)]
            if "batches" in has and (maybe(0.4) or (p == 0 and i == length - 1)):
                entry.pop("setup", None)
                entry |= recipes[0 if p == 0 and i == length - 1 else num(0, 2)]
            if "transport" in has and (i == 0 or maybe(0.5)):
                entry["transport"] = num(1, 5)
            if "rework" in has and (i == 0 or maybe(0.3)):
                entry["rework"] = {"probability": [0.05, 0.3][num(0, 1)], "to": num(1, i + 1)}
            if "sampling" in has and i > 0 and (i == 1 or maybe(0.4)):
                entry["sampling"] = [0.0, 0.5, 0.9][num(0, 2)]
            route.append(entry)
        low = num(0, 3)
        product = {"route": route, "due_factor": [low, low + 3], "weight": [num(0, 1), 4]}
        product["share"] = num(p > 0, 4) if p else 1
        if "hot" in has:
            product["hot"] = {"probability": 0.2, "due_factor": 1.1, "weight": 9}
        if structure.releases == "renewal":
            product["release"] = time(20, 60)
            if maybe(0.4):
                product["release"]["first"] = num(0, 9)
        products[f"p{p}"] = product
    fab: dict[str, Any] = {
        "ticks": 1, "groups": groups, "products": products, "shift_period": 60, "any_load": True,
    }  # fmt: skip
    if structure.releases in ("conwip", "spread"):
        fab |= {"conwip": places, "spread": structure.releases == "spread"}
    elif structure.releases == "list":
        names = list(products)
        fab["releases"] = [[num(0, 25) * i // 2, str(rng.choice(names))] for i in range(places)]
    else:
        fab["slots"] = places
        # Light enough for the slots, which hold no lots that wait to be released.
        heaviest = float(np.max(describe.Plan(fab).loads))
        for product in products.values():
            product["release"]["mean"] = max(20, round(product["release"]["mean"] * 1.4 * heaviest))
    return fab


def largest(structure: Structure) -> describe.Plan:
    """A fab that the others are padded to, so that all of a structure fit one program."""
    has = structure.features.split()
    fab = describe_fab(np.random.default_rng(0), structure)
    for p, product in enumerate(fab["products"].values()):
        rest: dict[str, Any] = {"group": "g0", "time": 1}
        first = rest | {"transport": 1} if "transport" in has else rest
        if "rework" in has:
            first = first | {"rework": {"probability": 0.1}}
        if "sampling" in has:
            rest = rest | {"sampling": 0.5}
        product["route"] = [first, *[dict(rest) for _ in range(11)]]
        if "batches" in has and p == 0:
            for i in range(3):
                product["route"][i + 1] |= {"batch": f"r{i}", "batch_max": 9}
    for table in fab["groups"].values():
        if "setups" in has:
            table["setups"] = {s: dict.fromkeys("abc", 1) for s in "abc"}
        if "shifts" in has:
            table["shifts"] = [[0, 10], [20, 30]]
    return describe.Plan(fab)


def fabs_of(structure: Structure, seed: int, count: int = FABS) -> instance.Instance:
    """A batch of random fabs. Its shape does not depend on the seed."""
    rng = np.random.default_rng([*repr(structure).encode(), seed])
    plans = [describe.Plan(describe_fab(rng, structure)) for _ in range(count)]
    every = tuple(sorted(draws.KINDS.index(kind) for kind in structure.kinds.split()))
    stacked = instance.stack([plan.instance for plan in [*plans, largest(structure)]])

    def all_kinds(x: Any) -> Any:
        if not isinstance(x, instance.Duration):
            return x
        return x.replace(kinds=tuple(sorted({0, *every})))

    stacked = jax.tree.map(all_kinds, stacked, is_leaf=lambda x: isinstance(x, instance.Duration))
    return jax.tree.map(lambda x: jnp.asarray(x)[:count], stacked)


@functools.cache
def program(rule: str, one_at_a_time: bool = False) -> Any:
    """`STEPS` steps of a batch of fabs."""
    parsed = rules.parse(rule)

    @jax.jit
    def steps(fabs: instance.Instance, state: Any) -> Any:
        step = jax.vmap(lambda fab, one: dynamics.step(fab, parsed, one, one_at_a_time))
        state, moves = jax.lax.scan(lambda s, _: step(fabs, s), state, length=STEPS)
        return state, moves, jax.vmap(dynamics.finished)(fabs, state).all()

    return steps


begin = jax.jit(lambda fabs, keys, window: sim.start(fabs, keys, window, batched=True))


class Dispatches(NamedTuple):
    """What one fab did: all dispatches, and of each tool and start how many were leaders."""

    all: list[fab_simpy.Dispatch]
    leaders: dict[tuple[int, int, int], int]


def simulate(
    fabs: instance.Instance, rule: str, seed: int = 0, one_at_a_time: bool = False
) -> tuple[Any, list[Dispatches], int]:
    """Last states, what each fab did, and the number of steps."""
    count = fabs.tools.shape[0]
    window = figures.Window(jnp.int32(START), jnp.int32(END))
    state = begin(fabs, jax.random.split(jax.random.key(seed), count), window)
    recorded: list[list[fab_simpy.Dispatch]] = [[] for _ in range(count)]
    leaders: list[dict[tuple[int, int, int], int]] = [defaultdict(int) for _ in range(count)]
    used, calls, finished = 0, 0, False
    while not finished:
        # Fabs whose groups never stop being asked would not come to their ends.
        calls += 1
        assert calls < 40
        state, moves, finished = program(rule, one_at_a_time)(fabs, state)
        moves = jax.tree.map(np.asarray, moves)
        for step, fab, slot in np.argwhere(moves.moved):
            row = fab_simpy.Dispatch(
                *(int(getattr(moves, name)[step, fab, slot]) for name in fab_simpy.Dispatch._fields)
            )
            recorded[fab].append(row)
            leaders[fab][row.group, row.tool, row.start] += int(moves.leader[step, fab, slot])
        used += int(moves.moved.any((1, 2)).sum())
    return state, [Dispatches(*pair) for pair in zip(recorded, leaders, strict=True)], used


def model(fabs: instance.Instance, fab: int, rule: str, seed: int = 0) -> fab_simpy.Fab:
    """The same fab in SimPy, run beyond the horizon."""
    keys = re.split(" wait |@", rule)[0]
    names = [word.strip() for word in keys.split(">")]
    batching = rules.parse(rule).batching
    made = fab_simpy.Fab(
        jax.tree.map(lambda x: x[fab], fabs),
        jax.random.split(jax.random.key(seed), fabs.tools.shape[0])[fab],
        [fab_simpy.KEYS[name] for name in names],
        complete_first=batching.complete_first,
        at_least=float(batching.at_least),
        end=END,
        patience=float(batching.patience),
    )
    made.env.run(until=END + TAIL)
    return made


def overflows(other: fab_simpy.Fab, slots: int) -> bool:
    """Whether more lots than slots were ever in the fab; one that leaves makes room at once."""
    changes = [(lot.release, 1) for lot in other.lots]
    changes += [(lot.left, -1) for lot in other.lots if lot.left is not None]
    inside = np.cumsum([step for tick, step in sorted(changes) if tick < END])
    return bool((inside > slots).any())


def compare(fabs: instance.Instance, rule: str, seed: int) -> int:
    """Asserts that both simulators do the same; returns the number of dispatches."""
    state, done, _ = simulate(fabs, rule, seed)
    total = 0
    for fab, (ours, _) in enumerate(done):
        other = model(fabs, fab, rule, seed)
        assert bool(state.late[fab]) == overflows(other, fabs.slots), f"fab {fab}: late"
        if state.late[fab]:
            continue
        theirs = [d for d in other.dispatches if d.start < END]
        wrong = sorted({*ours} ^ {*theirs}, key=lambda d: (d.start, d.number))[:2]
        assert (wrong, len(ours)) == ([], len(theirs)), f"fab {fab}"
        check_figures(state, fab, fabs, other)
        total += len(ours)
    return total


def check_figures(state: Any, fab: int, fabs: instance.Instance, other: fab_simpy.Fab) -> None:
    """All figures equal the model's, from its own past."""
    products, groups = fabs.first.shape[-1], fabs.tools.shape[-2]
    left = [lot for lot in other.lots if lot.left is not None and lot.left < END]
    counted = [lot for lot in left if lot.left > START]
    expected: dict[str, Any] = {
        name: [0] * products
        for name in ("finished", "on_time", "cycle_time", "tardiness", "weighted_tardiness")
    }
    for lot in counted:
        late = max(0, lot.left - lot.due)
        expected["finished"][lot.product] += 1
        expected["on_time"][lot.product] += late == 0
        expected["cycle_time"][lot.product] += lot.left - lot.release
        expected["tardiness"][lot.product] += late
        expected["weighted_tardiness"][lot.product] += late * lot.weight
    expected["lot_time"] = sum(max(0, lot.left - max(lot.release, START)) for lot in left)
    ended = [d.group for d in other.dispatches if START < d.end <= END and d.start < END]
    expected["moves"] = [ended.count(g) for g in range(groups)]
    expected |= {name: x.tolist() for name, x in fab_simpy.integrals(other, START).items()}
    found = {}
    for name, value in state.figures._asdict().items():
        value = value.numpy() if hasattr(value, "numpy") else value
        found[name] = np.asarray(value)[fab].astype(np.int64).tolist()
    assert found == expected, f"fab {fab}"
    # Lots in the fab: each from its release to its exit, or to the horizon.
    release, number = (np.asarray(getattr(state.lots, n)[fab]) for n in ("release", "number"))
    here = {n: r for n, r in zip(number.tolist(), release.tolist(), strict=True) if r < END}
    stay = {lot.number: lot.release for lot in other.lots if lot.left is None or lot.left >= END}
    assert here == {n: r for n, r in stay.items() if r < END}


# The slow ones have all that the tenth has, releases that others have too, and of how lots are
# chosen nothing that fabs of `test_fab_dynamics` with all features are without.
@pytest.mark.parametrize(
    "index",
    [pytest.param(i, marks=pytest.mark.slow if i in (8, 10) else []) for i in range(11)],
)
def test_fabs_of_all_shapes_are_simpys(index: int) -> None:
    structure = STRUCTURES[index]
    assert compare(fabs_of(structure, 0), structure.rule, 0) > 100 * FABS


@pytest.mark.slow
@pytest.mark.parametrize("index", range(len(STRUCTURES)))
def test_more_fabs_are_simpys(index: int) -> None:
    """Two hundred of each structure."""
    structure = STRUCTURES[index]
    for seed in range(1, 21):
        compare(fabs_of(structure, seed), structure.rule, seed)


@pytest.mark.slow
@pytest.mark.parametrize("rule", fab_simpy.KEYS)
def test_every_rule_is_simpys(rule: str) -> None:
    """As users write it, alone and with a threshold for batches, in fabs that have everything."""
    for name in (rule, f"{rule} @ 0.6"):
        assert compare(fabs_of(STRUCTURES[8], 2), name, 2) > 100 * FABS


def test_every_key_has_a_model() -> None:
    assert {name.partition("(")[0] for name in fab_simpy.KEYS} == {*rules.KEYS, *rules.FAMILIES}


@pytest.mark.parametrize("index", [5, pytest.param(9, marks=pytest.mark.slow)])
def test_late_is_told_of_the_right_fabs(index: int) -> None:
    """Of fabs with few slots those that a release finds full, and no others."""
    structure = STRUCTURES[index]
    fabs = fabs_of(structure, 1).replace(slots=9)
    compare(fabs, structure.rule, 1)
    state, _, _ = simulate(fabs, structure.rule, 1)
    assert 0 < int(state.late.sum()) < FABS


@pytest.mark.parametrize(
    ("time", "gap", "late"),
    [
        (10, 10, False),  # the slot becomes free at the tick of the release
        (11, 10, True),
        (9999, END, False),  # the run ends at the tick of the release
        (9999, END - 1, True),
    ],
)
def test_a_release_is_late_to_the_tick(time: int, gap: int, late: bool) -> None:
    """One slot, a lot at 0 and others after every `gap` ticks, each in the fab for `time`."""
    release = {"mean": gap, "first": 0}
    fab = {"ticks": 1, "slots": 1, "any_load": True, "groups": {"g": {}}}
    fab["products"] = {"p": {"route": [["g", time]], "release": release}}
    fabs = jax.tree.map(jnp.asarray, instance.stack([describe.Plan(fab).instance]))
    state, _, _ = simulate(fabs, "FIFO")
    assert bool(state.late[0]) == late
    assert overflows(model(fabs, 0, "FIFO"), 1) == late


@pytest.mark.parametrize("index", [6, pytest.param(8, marks=pytest.mark.slow)])
def test_one_group_at_a_time_is_the_same(index: int) -> None:
    """Also with rework, and with all features at once; fewer steps are all there is to gain."""
    structure = STRUCTURES[index]
    fabs = fabs_of(structure, 0)
    state, many, steps = simulate(fabs, structure.rule)
    other, one, more = simulate(fabs, structure.rule, one_at_a_time=True)
    for x, y in zip(many, one, strict=True):
        assert sorted(x.all) == sorted(y.all)
        assert x.leaders == y.leaders
    same = zip(jax.tree.leaves(state.figures), jax.tree.leaves(other.figures), strict=True)
    for x, y in same:
        np.testing.assert_array_equal(x, y)
    assert steps < more


def test_failures_do_not_depend_on_the_rule() -> None:
    """Calendar failures come when they come, and take as long, whatever the tools do then."""
    structure = Structure("setups calendar", "conwip", 4, 2, "exponential", "")
    fabs = fabs_of(structure, 0)
    (one, first, _), (two, second, _) = (simulate(fabs, rule) for rule in ("SPT", "LIFO"))
    assert [x.all for x in first] != [x.all for x in second]
    np.testing.assert_array_equal(one.figures.down.numpy(), two.figures.down.numpy())
    assert (one.figures.down.numpy()[:, 0] > 0).all()


@pytest.mark.slow
def test_without_jit() -> None:
    """Steps of a fab that has everything, compiled and op by op."""
    structure = STRUCTURES[9]
    fab = jax.tree.map(lambda x: x[0], fabs_of(structure, 0))
    window = figures.Window(jnp.int32(0), jnp.int32(END))
    rule = rules.parse("setup > FIFO")
    step = jax.jit(lambda state: dynamics.step(fab, rule, state))
    state = jax.jit(lambda key: dynamics.init(fab, key, window))(jax.random.key(0))
    moved = 0
    for i in range(60):
        after, moves = step(state)
        moved += int(moves.moved.sum())
        if i in (15, 45):
            with jax.disable_jit():
                plain = dynamics.step(fab, rule, state)
            same = zip(jax.tree.leaves((after, moves)), jax.tree.leaves(plain), strict=True)
            for x, y in same:
                np.testing.assert_array_equal(x, y)
        state = after
    assert moved > 10


@pytest.mark.parametrize("index", [2, 4, pytest.param(8, marks=pytest.mark.slow), 9])
@given(seed=st.integers(10, 10_000))
@settings(max_examples=4)
def test_invariants(index: int, seed: int) -> None:
    """What holds in any fab, whatever a second model says."""
    structure = STRUCTURES[index]
    fabs = fabs_of(structure, seed)
    state, done, _ = simulate(fabs, structure.rule, seed)
    assert jax.tree.map(jnp.shape, fabs) == jax.tree.map(jnp.shape, fabs_of(structure, 0))
    host = jax.tree.map(np.asarray, fabs)
    for fab, (dispatches, leaders) in enumerate(done):
        one = jax.tree.map(lambda x, fab=fab: x[fab], host)
        check_tools(one, dispatches, leaders)
        check_lots(one, dispatches)
        check_counts(one, jax.tree.map(lambda x, fab=fab: np.asarray(x)[fab], state), dispatches)


def check_tools(
    fab: Any, dispatches: list[fab_simpy.Dispatch], leaders: dict[tuple[int, int, int], int]
) -> None:
    """A tool does one thing at a time, for lots that may share it, at times it may start."""
    batches: dict[tuple[int, int, int], list[fab_simpy.Dispatch]] = defaultdict(list)
    for d in dispatches:
        batches[d.group, d.tool, d.start].append(d)
    free: dict[tuple[int, int], int] = defaultdict(int)
    for (group, tool, start), batch in sorted(batches.items()):
        assert fab.tools[group, tool]
        assert free[group, tool] <= start < END
        assert leaders[group, tool, start] == 1
        assert len({(d.setup, d.end) for d in batch}) == 1
        assert start + batch[0].setup < batch[0].end
        assert all(fab.group[d.op] == group for d in batch)
        free[group, tool] = batch[0].end
        family = {0 if fab.batches is None else int(fab.batches.family[d.op]) for d in batch}
        assert len(family) == 1
        if family == {0}:
            assert len(batch) == 1
        else:
            op = batch[0].op
            assert fab.batches.minimum[op] <= len(batch) <= fab.batches.maximum[op]
        if fab.shifts is not None:
            phase = start % int(fab.shifts.period)
            windows = zip(fab.shifts.start[group], fab.shifts.end[group], strict=True)
            assert any(a <= phase < b for a, b in windows)


def check_lots(fab: Any, dispatches: list[fab_simpy.Dispatch]) -> None:
    """A lot is in one place at a time, and takes its route in order where nothing sends it back."""
    history: dict[int, list[fab_simpy.Dispatch]] = defaultdict(list)
    for d in sorted(dispatches, key=lambda d: (d.start, d.end)):
        history[d.number].append(d)
    for path in history.values():
        assert len({int(fab.product[d.op]) for d in path}) == 1
        for before, after in itertools.pairwise(path):
            carried = 0 if fab.transport is None else int(fab.transport[before.op])
            assert before.end + carried <= after.start
            if fab.rework is None:
                assert after.op == before.op + 1


def check_counts(fab: Any, state: Any, dispatches: list[fab_simpy.Dispatch]) -> None:
    """Released lots are finished or in their slots; tools' times are those of the dispatches."""
    slots = fab.slots
    assert len(set(state.lots.number.tolist())) == slots
    assert state.lots.number.max() < state.count
    assert state.released.sum() == state.count
    # Each exit makes room for one release; those before the window count as well.
    gone = {d.number for d in dispatches} - set(state.lots.number.tolist())
    assert len(gone) == state.count - slots
    last = {n: max(d.end for d in dispatches if d.number == n) for n in gone}
    assert state.figures.finished.sum() == sum(START < tick < END for tick in last.values())
    # What tools worked and were interrupted for, together, is what they were occupied.
    occupied, setups = np.zeros((2, len(fab.tools)), int)
    for group, _, start, setup, end in {d[2:] for d in dispatches}:
        occupied[group] += max(0, min(end, END) - max(start, START))
        setups[group] += max(0, min(start + setup, END) - max(start, START))
    worked = {name: getattr(state.figures, name).numpy() for name in ("processing", "setup")}
    down = state.figures.down.numpy()
    assert (worked["processing"] + worked["setup"] <= occupied).all()
    assert (occupied <= worked["processing"] + worked["setup"] + down).all()
    if fab.breakdowns is None:
        assert (worked["processing"] + worked["setup"] == occupied).all()
        assert (worked["setup"] == setups).all()
    assert (sum(worked.values()) + down <= fab.tools.sum(1) * (END - START)).all()
    ended = [d.group for d in dispatches if START < d.end <= END]
    assert state.figures.moves.tolist() == [ended.count(g) for g in range(len(fab.tools))]
