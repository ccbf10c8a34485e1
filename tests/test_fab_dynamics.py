"""The simulator against an independent model in SimPy, dispatch by dispatch.

Random fabs of a dozen structures, which between them use every feature, each under several rules;
within a structure all values are random. Every dispatch must be the same: lot, operation, group,
tool, and the ticks of start, setup and end; so must the integrals over the window.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from envs.fab import describe, dynamics, figures, instance, rules
from envs.fab import simulate as sim
from tests import fab_simpy

FABS = 8  # per structure and set of rules, all of them in one program
FEATURES = "transport setups batches minimum calendar busy service pieces shifts rework sampling hot spread"
KINDS = ("deterministic", "uniform", "lognormal", "exponential", "gamma")

# Structure: features, releases, kinds of times. Rules follow.
STRUCTURES: list[tuple[str, str, tuple[str, ...], tuple[str, ...]]] = [
    ("", "conwip", ("deterministic",), ("FIFO", "LIFO", "SPT")),
    ("transport hot", "poisson", ("exponential", "uniform"), ("EDD", "ODD", "weight > LPT")),
    ("setups hot", "conwip", ("deterministic", "lognormal"), ("setup > FIFO", "ATCS(2,0.5)", "CR")),
    ("batches transport", "poisson", ("uniform",), ("FIFO", "S/RO", "WMOD @ 0.625")),
    ("batches minimum setups", "conwip", ("deterministic",), ("MWKR", "slack @ 0.3", "random")),
    ("calendar", "periodic", ("uniform",), ("LWKR", "MOPNR", "FDD/MWKR")),
    ("busy transport", "conwip", ("gamma", "exponential"), ("WSPT", "MOD", "WMDD")),
    ("service pieces", "poisson", ("deterministic",), ("ATC(2)", "FBFS", "LBFS")),
    ("calendar busy service pieces", "conwip", ("uniform",), ("FSVL(2)", "FSVCT(2)", "FIFO")),
    ("shifts transport", "list", ("lognormal",), ("FSMCT(50,2)", "PT+WINQ", "EDD")),
    ("rework sampling hot", "conwip", ("deterministic",), ("evolved16(10)", "CR", "random")),
    (
        FEATURES,
        "conwip",
        KINDS,
        ("setup > weight > EDD", "evolved20(10) @ 0.125", "PT+WINQ", "ATCS(2,0.5) @ 0.5"),
    ),
    (
        FEATURES.removesuffix(" spread"),
        "poisson",
        ("deterministic", "gamma"),
        ("setup > WSPT", "evolved16(10)", "weight > ODD"),
    ),
]


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


def structures(index: int, rule: int) -> list[describe.Plan]:
    features, releases, kinds, _ = STRUCTURES[index]
    rng = np.random.default_rng([index, rule])
    return [describe.Plan(random_fab(rng, features, releases, kinds)) for _ in range(FABS)]


def padded(plans: list[describe.Plan], like: list[describe.Plan] = ()) -> instance.Instance:  # type: ignore[assignment]
    return jax.tree.map(jnp.asarray, instance.stack([plan.instance for plan in [*plans, *like]]))


def record(
    fabs: Any, rule: rules.Rule, window: figures.Window, steps: int, one_at_a_time: bool = False
) -> tuple[Any, Any]:
    """The last states and the moves ``[steps, B, N]`` of a batch of fabs."""
    keys = jax.random.split(jax.random.key(5), fabs.tools.shape[0])

    @jax.jit
    def run(fabs: Any, keys: Any) -> Any:
        state = sim.start(fabs, keys, window, batched=True)

        def body(state: Any, _: Any) -> Any:
            return jax.vmap(lambda f, s: dynamics.step(f, rule, s, one_at_a_time))(fabs, state)

        return jax.lax.scan(body, state, length=steps)

    state, moves = run(fabs, keys)
    assert jax.vmap(dynamics.finished)(fabs, state).all(), "more steps are needed"
    return state, jax.tree.map(np.asarray, moves)


def dispatches(moves: Any, fab: int, end: int) -> list[fab_simpy.Dispatch]:
    """Those of one fab that ended before `end`, in a fixed order."""
    one = jax.tree.map(lambda x: x[:, fab], moves)
    rows = np.stack([getattr(one, name) for name in fab_simpy.Dispatch._fields], axis=-1)[one.moved]
    return sorted(fab_simpy.Dispatch(*map(int, row)) for row in rows if row[-1] < end)


def model(fabs: Any, fab: int, spec: str, end: int) -> fab_simpy.Fab:
    rule = rules.parse(spec)
    names = [word.strip() for word in spec.partition("@")[0].split(">")]
    one = jax.tree.map(lambda x: x[fab], fabs)
    made = fab_simpy.Fab(
        one,
        jax.random.split(jax.random.key(5), fabs.tools.shape[0])[fab],
        [fab_simpy.KEYS[name] for name in names],
        rule.batching.complete_first,
        rule.batching.at_least,
        end,
    )
    made.run()
    return made


CASES = [(i, r) for i, (*_, names) in enumerate(STRUCTURES) for r in range(len(names))]


@pytest.mark.parametrize(
    ("index", "rule"), CASES, ids=[f"{i}-{STRUCTURES[i][3][r]}" for i, r in CASES]
)
def test_dispatches_are_simpys(index: int, rule: int) -> None:
    spec = STRUCTURES[index][3][rule]
    start, end = 300, 2000
    fabs = padded(structures(index, rule))
    window = figures.Window(jnp.int32(start), jnp.int32(end))
    state, moves = record(fabs, rules.parse(spec), window, 2500)
    assert not state.late.any()
    for fab in range(FABS):
        other = model(fabs, fab, spec, end)
        ours, theirs = dispatches(moves, fab, end), sorted(other.dispatches)
        assert len(theirs) > 150
        wrong = [pair for pair in zip(ours, theirs, strict=False) if pair[0] != pair[1]]
        first = min(wrong, key=lambda pair: min(p.start for p in pair), default=None)
        assert (first, len(ours)) == (None, len(theirs)), f"fab {fab}"
        check_figures(state, fab, other, start, end)


def check_figures(state: Any, fab: int, other: fab_simpy.Fab, start: int, end: int) -> None:
    """Integrals over the window equal those of the model's own past."""
    found = jax.tree.map(lambda x: x[fab], state.figures)
    left = [lot for lot in other.lots if lot.left is not None and start < lot.left < end]
    for product in range(2):
        mine = [lot for lot in left if lot.product == product]
        assert int(found.finished[product]) == len(mine)
        late = [max(0, lot.left - lot.due) for lot in mine]
        assert int(found.on_time[product]) == sum(x == 0 for x in late)
        assert int(found.cycle_time.numpy()[product]) == sum(x.left - x.release for x in mine)
        assert int(found.tardiness.numpy()[product]) == sum(late)
        weighted = sum(x * lot.weight for x, lot in zip(late, mine, strict=True))
        assert int(found.weighted_tardiness.numpy()[product]) == weighted
    ended = [d for d in other.dispatches if start < d.end < end]
    ticks = fab_simpy.integrals(other, start)
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
