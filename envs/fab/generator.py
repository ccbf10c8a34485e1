"""Random fabs: families of instances from which training and held-out ones are drawn.

A family says how large its fabs are and what happens in them; a seed gives one fab. All that is
random about a fab (routes, tools, times, loads) comes from the family's name-free settings and the
seed alone. Training seeds and held-out seeds are two streams that never meet.

How one is made: every group gets tools, a target load of at most `load` (which the bottleneck
has), and what it loses to breakdowns and maintenance. Every product gets a re-entrant route: layers
that begin at the first group, as wafers come back to lithography, and go on over randomly drawn
others. Mean processing times are drawn and then scaled group by group, so that each has its target
load at the rate of releases; work in process is then what queues make of it.
"""

import dataclasses
from typing import Any

import numpy as np

from .describe import FabError, Plan


@dataclasses.dataclass(frozen=True, kw_only=True)
class Family:
    """Settings of random fabs; pairs are ``(low, high)`` of uniform draws.

    Attributes:
      groups, products: how many; `tools` of a group.
      operations: of a route.
      lots: constant work in process, where `conwip`; otherwise five eighths of the slots.
      release_cv: coefficient of variation of the times between releases of a product: 1 for
        Poisson, otherwise uniform times, at most 0.577.
      load: of the bottleneck, setups and half-filled batches apart; `spread` of the others' loads,
        as parts of it.
      cv: coefficient of variation of processing times (log-normal), one for the fab; 0 where they
        are fixed.
      minutes: mean processing time of an operation.
      transport: minutes between operations.
      lost: part of the time that a group loses to breakdowns; None where nothing breaks.
      setups, batches: parts of the groups that have them; `maintained` the probability of each.
      rework, sampled: probability of rework at the first group; of doing an inspection at the last.
      hot: probability of a hot lot.
      due_factor: flow factor of due dates.
    """

    groups: tuple[int, int] = (10, 10)
    products: tuple[int, int] = (2, 4)
    tools: tuple[int, int] = (1, 4)
    operations: tuple[int, int] = (60, 120)
    lots: tuple[int, int] = (50, 50)
    conwip: bool = False
    release_cv: float = 1.0
    load: tuple[float, float] = (0.9, 0.9)
    spread: tuple[float, float] = (0.6, 0.97)
    cv: tuple[float, float] = (0.3, 0.3)
    minutes: float = 30.0
    transport: float = 0.0
    lost: tuple[float, float] | None = None
    maintained: float = 0.0
    setups: tuple[float, float] = (0.0, 0.0)
    batches: tuple[float, float] = (0.0, 0.0)
    rework: float = 0.0
    sampled: float = 1.0
    hot: float = 0.05
    due_factor: tuple[float, float] = (1.5, 3.0)


SEED_10X50 = Family(conwip=True)
FAB_20X300 = Family(
    groups=(20, 20),
    products=(3, 3),
    operations=(300, 500),
    lots=(100, 100),
    release_cv=0.5,
    spread=(0.5, 0.9),
    transport=4.0,
    lost=(0.03, 0.12),
    maintained=0.5,
    setups=(0.2, 0.2),
    batches=(0.15, 0.15),
    rework=0.02,
    sampled=0.5,
)
FAMILIES = {
    "seed-10x50": SEED_10X50,
    "fab-20x300": FAB_20X300,
    "fab-20x300-conwip": dataclasses.replace(FAB_20X300, conwip=True),
    # Smaller, and busier, than what a policy was trained on.
    "fab-10x300": dataclasses.replace(FAB_20X300, groups=(10, 10), lots=(50, 50)),
    "fab-20x300-busy": dataclasses.replace(FAB_20X300, load=(0.95, 0.95), lots=(150, 150)),
    # Domain randomisation: of every load, and with more and less of all that can happen.
    "fab-20x300-varied": dataclasses.replace(
        FAB_20X300,
        load=(0.8, 0.95),
        lots=(150, 150),
        cv=(0.0, 0.6),
        lost=(0.01, 0.2),
        setups=(0.1, 0.4),
        batches=(0.05, 0.3),
    ),
}


def make(family: Family, seed: int, held_out: bool = False, name: str = "random fab") -> Plan:
    """The fab of a family that a seed gives; held-out seeds are apart from training seeds."""
    return Plan({"name": name, **describe(family, seed, held_out)})


def describe(family: Family, seed: int, held_out: bool = False) -> dict[str, Any]:
    """The description (see `describe`) of one fab of a family.

    Raises:
      FabError: where its fabs would have a single group, in which no route can go on.
    """
    rng = np.random.default_rng([int(held_out), seed])
    between = lambda pair: int(rng.integers(pair[0], pair[1], endpoint=True))  # noqa: E731
    # What does not vary takes no draw: where it does, in another family, all else stays the same.
    drawn = lambda pair: rng.uniform(*pair) if pair[0] < pair[1] else pair[0]  # noqa: E731
    if min(family.groups) < 2:
        raise FabError(f"a family's fabs have at least 2 groups, not {min(family.groups)}.")
    num_groups, num_products = between(family.groups), between(family.products)
    tools = rng.integers(family.tools[0], family.tools[1], num_groups, endpoint=True)
    load = rng.uniform(*family.load)
    loads = load * rng.uniform(*family.spread, num_groups)
    special = rng.permutation(np.arange(1, num_groups))
    with_setups = {*special[: _part(drawn(family.setups), num_groups)].tolist()}
    rest = special[len(with_setups) :]
    with_batches = {*rest[: _part(drawn(family.batches), num_groups)].tolist()}
    # The bottleneck neither batches nor sets up, so that its load is what it says.
    plain = [g for g in range(num_groups) if g not in with_setups | with_batches]
    loads[rng.choice(plain)] = load
    inspection = num_groups - 1

    groups: dict[str, dict[str, Any]] = {}
    capacity = np.zeros(num_groups)
    for g in range(num_groups):
        table: dict[str, Any] = {
            "tools": int(tools[g]),
            "energy": {
                "processing": round(float(rng.uniform(5, 40)), 1),
                "setup": round(float(rng.uniform(3, 10)), 1),
                "idle": round(float(rng.uniform(1, 5)), 1),
                "down": 1.0,
            },
        }
        up = 1.0
        if family.lost is not None:
            lost, repair = rng.uniform(*family.lost), rng.uniform(60, 300)
            table["breakdown"] = {
                "until": {"mean": repair * (1 - lost) / lost, "kind": "exponential"},
                "repair": {"mean": repair, "kind": "lognormal", "cv": 0.7},
                "clock": str(rng.choice(["calendar", "busy"])),
            }
            up *= 1 - lost
        if rng.random() < family.maintained:
            takes = rng.uniform(60, 240)
            table["maintenance"] = {"every": 7 * 1440.0, "takes": takes}
            up *= 1 - takes / (7 * 1440)
            if rng.random() < 0.5:
                table["maintenance"] |= {"pieces": 200, "pieces_take": 30.0}
                up *= 0.99
        if g in with_setups:
            # Where every lot changes the setup, that takes up to 0.4 of the processing time.
            loads[g] *= 0.65
        if g in with_batches:
            # Batches are rarely full; this keeps the group stable at a little over half.
            loads[g] *= 0.6
        groups[f"group{g}"] = table
        capacity[g] = tools[g] * up

    routes = [_route(family, rng, num_groups) for _ in range(num_products)]
    sizes = {g: int(rng.integers(4, 8, endpoint=True)) for g in sorted(with_batches)}
    shares = rng.dirichlet(np.full(num_products, 4.0))
    # Of each route's visits, drawn mean times; then one factor for each group.
    means = [rng.gamma(4.0, 0.25, len(route)) for route in routes]
    states = [rng.integers(4, size=len(route)) for route in routes]
    work = np.zeros(num_groups)
    for share, route, mean in zip(shares, routes, means, strict=True):
        for g, time in zip(route, mean, strict=True):
            visits = family.sampled if g == inspection else 1.0
            work[g] += share * time * visits / sizes.get(g, 1)
    work[0] /= 1 - family.rework
    visited = work > 0
    # Lots per minute at which operations have the mean time that the family wants.
    weights = np.array([len(route) for route in routes]) @ shares
    scale = np.divide(loads * capacity, work, out=np.zeros(num_groups), where=visited)
    total = sum(
        share * float(np.sum(scale[route] * mean))
        for share, route, mean in zip(shares, routes, means, strict=True)
    )
    rate = total / (weights * family.minutes)

    for g in sorted(with_setups):
        time = scale[g] / rate * rng.uniform(0.2, 0.5)
        groups[f"group{g}"]["setups"] = max(round(float(time), 1), 0.1)

    cv = drawn(family.cv)
    products = {}
    for p, (route, mean, state) in enumerate(zip(routes, means, states, strict=True)):
        operations = []
        for i, g in enumerate(route):
            time = max(round(float(mean[i] * scale[g] / rate), 1), 0.5)
            entry: dict[str, Any] = {"group": f"group{g}", "time": time}
            if g in with_batches:
                # One recipe for every state, of the same time wherever it is used.
                recipe = int(state[i])
                entry["time"] = max(round(float(scale[g] / rate), 1), 0.5)
                entry |= {"batch": f"recipe{g}.{recipe}", "batch_max": sizes[g]}
            if cv > 0:
                entry["time"] = {"mean": entry["time"], "kind": "lognormal", "cv": cv}
            if g in with_setups:
                entry["setup"] = f"state{state[i]}"
            if family.transport > 0 and i + 1 < len(route):
                entry["transport"] = family.transport
            if family.rework > 0 and g == 0:
                entry["rework"] = {"probability": family.rework, "to": i + 1}
            if family.sampled < 1 and g == inspection and i > 0:
                entry["sampling"] = family.sampled
            operations.append(entry)
        products[f"product{p}"] = {
            "route": operations,
            "due_factor": list(family.due_factor),
            "weight": [1, 4],
            "hot": {"probability": family.hot, "due_factor": family.due_factor[0], "weight": 10},
        }
        if family.conwip:
            products[f"product{p}"]["share"] = float(shares[p])
        else:
            release = {"mean": float(1 / (rate * shares[p])), "kind": "exponential"}
            if family.release_cv != 1:
                release |= {"kind": "uniform", "cv": family.release_cv}
            products[f"product{p}"]["release"] = release
    fab: dict[str, Any] = {"unit": "minute", "ticks": 10, "groups": groups, "products": products}
    if family.conwip:
        fab |= {"conwip": between(family.lots), "spread": True}
    else:
        fab["slots"] = round(1.6 * between(family.lots))
    return fab


def _part(part: float, groups: int) -> int:
    """How many groups a part of them is: at least one, if any."""
    return max(1, round(part * groups)) if part > 0 else 0


def _route(family: Family, rng: np.random.Generator, groups: int) -> np.ndarray:
    """Groups visited: layers that begin at group 0 and wander over the others, without staying."""
    length = int(rng.integers(*family.operations, endpoint=True))
    popularity = rng.dirichlet(np.full(groups - 1, 2.0))
    route = [0]
    layer = int(rng.integers(8, 14))
    while len(route) < length:
        following = 1 + int(rng.choice(groups - 1, p=popularity))
        if len(route) % layer == 0 or groups == 2:
            following = 0 if route[-1] else 1
        if following != route[-1]:
            route.append(following)
    return np.array(route)
