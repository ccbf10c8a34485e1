"""A fab in words: from a description in Python, TOML or JSON to an `Instance`.

A description is nested tables, the same in all three. The smallest one::

    {
        "groups": {"litho": {"tools": 2}, "etch": {}},
        "products": {
            "chip": {
                "route": [["litho", 30], ["etch", 20], ["litho", 25]],
                "release": {"mean": 60, "kind": "exponential"},
            },
        },
    }

Every time is in the description's `unit` (minutes, unless it says otherwise) and is a number, or a
table of a random one: ``{"mean": 30, "kind": "lognormal", "cv": 0.4}`` (`draws.KINDS`).

The fab: ``unit`` (second, minute, hour), ``ticks`` (ticks per unit, 10), ``slots`` (the most lots
at once), ``groups``, ``products``, and either ``conwip`` (that many lots, always), ``releases``
(a list of ``[time, product]``) or a ``release`` for each product; ``spread`` (CONWIP lots start
all along their routes, not at the first operation), ``shift_period``, ``any_load`` (a load of 1 or
more is meant).

A group: ``tools``; ``breakdown`` with ``until`` and ``repair`` (times) and ``clock`` ("calendar"
or "busy"); ``maintenance`` with ``every`` and ``takes``, ``first`` (due dates are spread over the
tools otherwise), and ``pieces`` and ``pieces_take``; ``setups``, a time for every change or a
table ``{from: {to: time}}``; ``setup``, the state at the start; ``shifts``, a list of
``[start, end]`` within the period; ``energy`` with ``processing``, ``setup``, ``idle``, ``down``
in kW.

A product: ``route``; ``release`` (the time between two lots; ``first``, the time of the first);
``share`` of the lots in a CONWIP fab; ``due_factor`` and ``weight``, a number or ``[low, high]``;
``hot`` with ``probability``, ``due_factor``, ``weight``.

An operation: ``group`` and ``time``, and where it has them ``transport`` to the next, ``setup``
(the state it needs), ``batch`` (its family) with ``batch_min`` and ``batch_max``, ``rework``
(``probability``, and ``to``, the number of an operation of the route, from 1), ``sampling`` (the
probability that it is done). ``[group, time]`` says as much as a table with those two.
"""

import difflib
import json
import math
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from . import draws
from .instance import (
    NEVER,
    Batches,
    Breakdowns,
    Conwip,
    Duration,
    Energy,
    Instance,
    Maintenance,
    Orders,
    Planned,
    Renewal,
    Rework,
    Setups,
    Shifts,
)

SECONDS = {"second": 1, "minute": 60, "hour": 3600}

_FAB = ["name", "unit", "ticks", "slots", "groups", "products", "conwip", "releases", "spread"]
_FAB += ["shift_period", "any_load"]
_GROUP = ["tools", "breakdown", "maintenance", "setups", "setup", "shifts", "energy"]
_PRODUCT = ["route", "release", "share", "due_factor", "weight", "hot"]
_OPERATION = ["group", "time", "transport", "setup", "batch", "batch_min", "batch_max"]
_OPERATION += ["rework", "sampling"]
# The longest mean of a time, in ticks.
_LONGEST = draws.LONGEST


class FabError(ValueError):
    """A fab that cannot be built. One sentence names the place."""


class Plan:
    """A fab that was described: its instance, and the names that the instance leaves out.

    Attributes:
      name, instance: the fab.
      groups, products, families: names, by the instance's numbers.
      setups: the same of the setup states of each group.
      unit, ticks: of the description's times, and how many ticks it has.
      seconds: of one tick.
      loads: ``[G]`` the mean load of each group without setups; NaN where releases set none.
    """

    def __init__(self, description: Mapping[str, Any], name: str = "fab") -> None:
        build = _Build(description)
        self.name = str(description.get("name", name))
        self.instance = build.instance
        self.groups, self.products = build.groups, build.products
        self.setups, self.families = build.states, build.families
        self.unit, self.ticks = build.unit, build.ticks
        self.seconds = SECONDS[build.unit] / build.ticks
        self.loads = build.loads


def read(path: Path | str) -> Plan:
    """The fab that a TOML or JSON file describes.

    Raises:
      FabError: where it cannot be read, or describes no fab.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
        table = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise FabError(f"the fab file {path} cannot be read: {reason}") from error
    if not isinstance(table, dict):
        raise FabError(f"the fab file {path} holds no table at its top.")
    return Plan(table, path.stem)


class _Build:
    """Reads a description once, top to bottom, checking as it goes."""

    def __init__(self, fab: Mapping[str, Any]) -> None:
        self.fab = _table(fab, "the fab", _FAB)
        self.unit = _choice(self.fab.get("unit", "minute"), "unit", SECONDS)
        self.ticks = _number(self.fab.get("ticks", 10), "ticks", low=1e-9)
        self.group_tables = {
            str(k): _table(v, f"group '{k}'", _GROUP)
            for k, v in _table(self.fab.get("groups", {}), "groups").items()
        }
        self.product_tables = {
            str(k): _table(v, f"product '{k}'", _PRODUCT)
            for k, v in _table(self.fab.get("products", {}), "products").items()
        }
        for what, tables in (("groups", self.group_tables), ("products", self.product_tables)):
            if not tables:
                raise FabError(f"the fab has no {what}.")
        self.groups, self.products = list(self.group_tables), list(self.product_tables)
        self.states, self.families = [[""] for _ in self.groups], [""]
        self.operations: list[dict[str, Any]] = []
        self.first: list[int] = []
        for product, table in self.product_tables.items():
            self._route(product, table.get("route", []))
        self.instance = self._instance()

    def time(self, value: Any, place: str, low: float = 0.0) -> int:
        """Ticks of a time in units."""
        ticks = round(_number(value, place, low=low) * self.ticks)
        if ticks > _LONGEST:
            raise FabError(
                f"{place} is {value} {self.unit}s, but must be at most "
                f"{_LONGEST / self.ticks:.0f}; fewer `ticks` per {self.unit} allow more."
            )
        return int(ticks)

    def random(self, value: Any, place: str) -> tuple[float, float, int]:
        """Mean in ticks, coefficient of variation and kind of a random time."""
        if not isinstance(value, Mapping):
            value = {"mean": value}
        table = _table(value, place, ["mean", "kind", "cv", "first"])
        if "mean" not in table:
            raise FabError(f"{place} has no mean.")
        kind = draws.KINDS.index(
            _choice(table.get("kind", "deterministic"), f"{place}: kind", draws.KINDS)
        )
        mean = float(self.time(table["mean"], place))
        if mean <= 0:
            raise FabError(f"{place} is {table['mean']}, but must be at least one tick.")
        if kind in (draws.DETERMINISTIC, draws.EXPONENTIAL):
            return mean, float(kind == draws.EXPONENTIAL), kind
        limit = 1 / math.sqrt(3) if kind == draws.UNIFORM else 10.0
        cv = _number(table.get("cv", 0.3), f"{place}: cv", low=1e-3, high=limit)
        return mean, cv, kind

    def _route(self, product: str, route: Any) -> None:
        if not isinstance(route, (list, tuple)) or not route:
            raise FabError(f"product '{product}' has no route.")
        self.first.append(len(self.operations))
        for i, entry in enumerate(route):
            place = f"operation {i + 1} of product '{product}'"
            if isinstance(entry, (list, tuple)):
                if len(entry) != 2:
                    raise FabError(f"{place} is {list(entry)}, but must be [group, time].")
                entry = {"group": entry[0], "time": entry[1]}
            table = _table(entry, place, _OPERATION)
            for name in ("group", "time"):
                if name not in table:
                    raise FabError(f"{place} has no {name}.")
            group = self.groups.index(
                _choice(str(table["group"]), f"{place}: group", self.groups, "group")
            )
            mean, cv, kind = self.random(table["time"], f"{place}: time")
            setup = 0
            if table.get("setup"):
                setup = _index(self.states[group], str(table["setup"]))
            family, low, high = 0, 1, 1
            if table.get("batch"):
                family = _index(self.families, str(table["batch"]))
                low = _whole(table.get("batch_min", 1), f"{place}: batch_min", 1)
                high = _whole(table.get("batch_max", low), f"{place}: batch_max", 1)
                if low > high:
                    raise FabError(
                        f"{place}: batch_min is {low}, but must be at most batch_max, {high}."
                    )
            rework, back = 0.0, i
            if "rework" in table:
                again = _table(table["rework"], f"{place}: rework", ["probability", "to"])
                rework = _number(again.get("probability"), f"{place}: rework", 0.0, 0.999)
                back = _whole(again.get("to", i + 1), f"{place}: rework to", 1, i + 1) - 1
            sampled = _number(table.get("sampling", 1.0), f"{place}: sampling", 0.0, 1.0)
            if i == 0 and sampled < 1:
                raise FabError(f"{place}: sampling is {sampled}, but every lot has to start there.")
            self.operations.append(
                {
                    "product": len(self.first) - 1,
                    "group": group,
                    "mean": mean,
                    "cv": cv,
                    "kind": kind,
                    "transport": self.time(table.get("transport", 0), f"{place}: transport"),
                    "setup": setup,
                    "family": family,
                    "minimum": low,
                    "maximum": high,
                    "rework": rework,
                    "back": self.first[-1] + back,
                    "sampled": sampled,
                }
            )
        self._check_families()

    def _check_families(self) -> None:
        seen: dict[int, dict[str, Any]] = {}
        for operation in self.operations:
            other = seen.setdefault(operation["family"], operation)
            if operation["family"] == 0:
                continue
            for what in ("group", "minimum", "maximum", "setup"):
                if other[what] != operation[what]:
                    raise FabError(
                        f"batch family '{self.families[operation['family']]}' is used with two "
                        f"values of {what}, but its operations must agree in it."
                    )

    def column(self, name: str, dtype: Any = np.int32) -> np.ndarray:
        return np.array([operation[name] for operation in self.operations], dtype)

    def _instance(self) -> Instance:
        tools = [
            _whole(table.get("tools", 1), f"group '{name}': tools", 1)
            for name, table in self.group_tables.items()
        ]
        exists = np.arange(max(tools)) < np.array(tools)[:, None]
        product = self.column("product")
        mean = self.column("mean", np.float64)
        work = np.round(mean).astype(np.int32)
        done, remaining, left = (np.zeros_like(work) for _ in range(3))
        for p in range(len(self.products)):
            mine = product == p
            done[mine] = np.cumsum(work[mine])
            remaining[mine] = np.cumsum(work[mine][::-1])[::-1]
            left[mine] = np.arange(mine.sum(), 0, -1)
        transport = self.column("transport")
        energy = [
            [
                _number(
                    _table(
                        table.get("energy", {}),
                        f"group '{name}': energy",
                        ["processing", "setup", "idle", "down"],
                    ).get(what, 0.0),
                    f"group '{name}': energy",
                    0.0,
                )
                for what in ("processing", "setup", "idle", "down")
            ]
            for name, table in self.group_tables.items()
        ]
        powers = np.array(energy, np.float32).T
        self.tool_counts = np.array(tools)
        breakdowns, maintenance = self._breakdowns(), self._maintenance(exists)
        shifts = self._shifts()
        releases, slots = self._releases()
        instance = Instance(
            tools=exists,
            group=self.column("group"),
            product=product,
            processing=Duration.of((o["mean"], o["cv"], o["kind"]) for o in self.operations),
            work=work,
            done=done,
            remaining=remaining,
            left=left,
            first=np.array(self.first, np.int32),
            transport=transport if transport.any() else None,
            releases=releases,
            orders=self._orders(),
            setups=self._setups(),
            batches=self._batches(),
            breakdowns=breakdowns,
            maintenance=maintenance,
            shifts=shifts,
            rework=self._rework(),
            energy=Energy(*powers) if powers.any() else None,
            slots=slots,
        )
        self.loads = self._loads(instance)
        heaviest = int(np.argmax(np.nan_to_num(self.loads, nan=-1.0)))
        if self.loads[heaviest] >= 1 and not self.fab.get("any_load", False):
            raise FabError(
                f"group '{self.groups[heaviest]}' has a load of {self.loads[heaviest]:.3f}, but "
                "must have one below 1, or its queue grows for ever (any_load = true allows it)."
            )
        return instance

    def _setups(self) -> Setups | None:
        for states, table in zip(self.states, self.group_tables.values(), strict=True):
            if table.get("setup"):
                _index(states, str(table["setup"]))
            times = table.get("setups", 0)
            for state in times if isinstance(times, Mapping) else ():
                _index(states, str(state))
        with_setups = [g for g, states in enumerate(self.states) if len(states) > 1]
        if not with_setups:
            return None
        most = max(map(len, self.states))
        row, initial = np.zeros((2, len(self.states)), np.int32)
        row[with_setups] = np.arange(1, len(with_setups) + 1)
        ticks = np.zeros((len(with_setups) + 1, most, most), np.int32)
        for g, (group, table) in enumerate(self.group_tables.items()):
            states = self.states[g]
            if table.get("setup"):
                initial[g] = states.index(str(table["setup"]))
            times = table.get("setups", 0)
            if not isinstance(times, Mapping):
                change = self.time(times, f"group '{group}': setups")
                ticks[row[g], : len(states), 1 : len(states)] = change
                np.fill_diagonal(ticks[row[g]], 0)
                continue
            for before, after_times in times.items():
                place = f"group '{group}': setups from '{before}'"
                for after, value in _table(after_times, place).items():
                    _choice(str(after), f"{place} to '{after}'", states[1:], "setup state")
                    at = row[g], states.index(str(before)), states.index(str(after))
                    ticks[at] = self.time(value, f"{place} to '{after}'")
        return Setups(
            self.column("setup"), ticks, row, np.array([0, *with_setups], np.int32), initial
        )

    def _batches(self) -> Batches | None:
        maximum = self.column("maximum")
        if maximum.max() == 1:
            return None
        return Batches(
            family=self.column("family"),
            minimum=self.column("minimum"),
            maximum=maximum,
            families=len(self.families),
            largest=int(maximum.max()),
        )

    def _rework(self) -> Rework | None:
        probability, sampled = self.column("rework", np.float32), self.column("sampled", np.float32)
        if not probability.any() and (sampled == 1).all():
            return None
        longest = run = 0
        for operation in self.operations:
            run = run + 1 if operation["sampled"] < 1 else 0
            longest = max(longest, run)
        return Rework(probability, self.column("back"), sampled, longest)

    def _breakdowns(self) -> Breakdowns | None:
        rows, clocks, fails = [], [], []
        never = (1.0, 0.0, draws.DETERMINISTIC)
        for group, table in self.group_tables.items():
            place = f"group '{group}': breakdown"
            given = table.get("breakdown")
            fails.append(given is not None)
            if given is None:
                rows.append((never, never))
                clocks.append(False)
                continue
            given = _table(given, place, ["until", "repair", "clock"])
            rows.append(
                (
                    self.random(given.get("until", {}), f"{place}: until"),
                    self.random(given.get("repair", {}), f"{place}: repair"),
                )
            )
            clock = _choice(given.get("clock", "calendar"), f"{place}: clock", ["calendar", "busy"])
            clocks.append(clock == "busy")
        if not any(fails):
            return None
        return Breakdowns(
            by_busy_time=np.array(clocks),
            fails=np.array(fails),
            until=Duration.of(row[0] for row in rows),
            repair=Duration.of(row[1] for row in rows),
        )

    def _maintenance(self, exists: np.ndarray) -> Maintenance | None:
        groups = len(exists)
        never = (1.0, 0.0, draws.DETERMINISTIC)
        none = Maintenance.never(exists)
        period, first, pieces = none.period, none.first, none.pieces
        takes, pieces_take = [never] * groups, [never] * groups
        for g, (group, table) in enumerate(self.group_tables.items()):
            if "maintenance" not in table:
                continue
            place = f"group '{group}': maintenance"
            given = _table(
                table["maintenance"], place, ["every", "takes", "first", "pieces", "pieces_take"]
            )
            if "every" in given:
                period[g] = self.time(given["every"], f"{place}: every", low=1e-9)
                takes[g] = self.random(given.get("takes", {}), f"{place}: takes")
                if takes[g][0] >= period[g]:
                    raise FabError(f"{place}: takes is as long as the time from one to the next.")
                count = int(exists[g].sum())
                for t in range(count):
                    due = period[g] * (t + 1) // count
                    if "first" in given:
                        due = self.time(given["first"], f"{place}: first")
                    first[g, t] = due
            if "pieces" in given:
                pieces[g] = _whole(given["pieces"], f"{place}: pieces", 1)
                pieces_take[g] = self.random(given.get("pieces_take", {}), f"{place}: pieces_take")
        if (period == NEVER).all() and not pieces.any():
            return None
        return Maintenance(period, first, Duration.of(takes), pieces, Duration.of(pieces_take))

    def _shifts(self) -> Shifts | None:
        if not any("shifts" in table for table in self.group_tables.values()):
            return None
        if "shift_period" not in self.fab:
            raise FabError("the fab has shifts, but no shift_period.")
        period = self.time(self.fab["shift_period"], "shift_period", low=1e-9)
        rows = []
        for group, table in self.group_tables.items():
            row = []
            for window in table.get("shifts", [[0, self.fab["shift_period"]]]):
                place = f"group '{group}': shift {window}"
                if not isinstance(window, (list, tuple)) or len(window) != 2:
                    raise FabError(f"{place} must be [start, end].")
                start, end = (self.time(x, place) for x in window)
                if not start < end <= period:
                    raise FabError(f"{place} must start before it ends, within the period.")
                row.append((start, end))
            rows.append(sorted(row))
        widest = max(map(len, rows))
        if not all(rows):
            raise FabError("a group with shifts must have at least one.")
        windows = np.array([row + [(period, period)] * (widest - len(row)) for row in rows])
        return Shifts(
            np.int32(period), windows[..., 0].astype(np.int32), windows[..., 1].astype(np.int32)
        )

    def _releases(self) -> tuple[Renewal | Planned | Conwip, int]:
        fab = self.fab
        given = [n for n, t in self.product_tables.items() if "release" in t]
        ways = [w for w in ("conwip", "releases") if w in fab] + ["release"] * bool(given)
        if len(ways) != 1:
            raise FabError(
                "the fab must have either conwip, or releases, or a release for each product; "
                f"it has {' and '.join(ways) or 'none of them'}."
            )
        if ways == ["conwip"]:
            lots = _whole(fab["conwip"], "conwip", 1)
            shares = np.array(
                [
                    _number(t.get("share", 1.0), f"product '{n}': share", 0.0)
                    for n, t in self.product_tables.items()
                ]
            )
            if shares.sum() <= 0:
                raise FabError("no product has a share of the lots.")
            share = np.cumsum(shares / shares.sum()).astype(np.float32)
            return Conwip(share, bool(fab.get("spread", False))), lots
        if ways == ["releases"]:
            rows = []
            for i, row in enumerate(fab["releases"]):
                place = f"release {i + 1}"
                if not isinstance(row, (list, tuple)) or len(row) != 2:
                    raise FabError(f"{place} is {row!r}, but must be [time, product].")
                name = _choice(str(row[1]), f"{place}: product", self.products, "product")
                rows.append((self.time(row[0], place), self.products.index(name)))
            if not rows:
                raise FabError("the list of releases is empty.")
            rows.sort(key=lambda row: row[0])
            times, products = (np.array(x, np.int32) for x in zip(*rows, strict=True))
            return Planned(times, products), _whole(fab.get("slots", len(rows)), "slots", 1)
        missing = [n for n in self.products if n not in given]
        if missing:
            raise FabError(f"product '{missing[0]}' has no release.")
        between = [
            self.random(t["release"], f"product '{n}': release")
            for n, t in self.product_tables.items()
        ]
        first = [
            self.time(t["release"]["first"], f"product '{n}': first release")
            if isinstance(t["release"], Mapping) and "first" in t["release"]
            else -1
            for n, t in self.product_tables.items()
        ]
        renewal = Renewal(Duration.of(between), np.array(first, np.int32))
        if "slots" in fab:
            return renewal, _whole(fab["slots"], "slots", 1)
        # By Little's law, at three times the work content, and room for fluctuations.
        lots = sum(
            3 * sum(o["mean"] for o in self.operations if o["product"] == p) / mean
            for p, (mean, _, _) in enumerate(between)
        )
        return renewal, math.ceil(lots + 6 * math.sqrt(lots) + 20)

    def _orders(self) -> Orders:
        rows = []
        for name, table in self.product_tables.items():
            place = f"product '{name}'"
            factor = _range(table.get("due_factor", 2.0), f"{place}: due_factor", low=0.0)
            weight = _range(table.get("weight", 1), f"{place}: weight", low=0, high=2**15 - 1)
            hot = _table(
                table.get("hot", {}), f"{place}: hot", ["probability", "due_factor", "weight"]
            )
            rows.append(
                (
                    *factor,
                    *weight,
                    _number(hot.get("probability", 0.0), f"{place}: hot", 0.0, 1.0),
                    _number(hot.get("due_factor", factor[0]), f"{place}: hot", 0.0),
                    _whole(hot.get("weight", round(weight[1])), f"{place}: hot", 0, 2**15 - 1),
                )
            )
        kinds = (np.float32, np.float32, np.int32, np.int32, np.float32, np.float32, np.int32)
        columns = [np.array(x, k) for x, k in zip(zip(*rows, strict=True), kinds, strict=True)]
        return Orders(*columns)

    def _loads(self, instance: Instance) -> np.ndarray:
        """Work that comes to a group over what its tools can do, setups apart."""
        if not isinstance(instance.releases, Renewal):
            return np.full(len(self.groups), np.nan)
        rate = 1 / np.asarray(instance.releases.between.mean, np.float64)
        demand = np.zeros(len(self.groups))
        for operation, visits in zip(self.operations, self._visits(), strict=True):
            work = operation["mean"] / operation["maximum"]
            table = self.group_tables[self.groups[operation["group"]]]
            pieces = table.get("maintenance", {}).get("pieces", 0)
            if pieces:
                stop = table["maintenance"]["pieces_take"]
                work += self.random(stop, "")[0] / pieces
            demand[operation["group"]] += visits * rate[operation["product"]] * work
        available = np.ones(len(self.groups))
        if instance.breakdowns is not None:
            up, down = (
                np.asarray(d.mean, np.float64)
                for d in (instance.breakdowns.until, instance.breakdowns.repair)
            )
            available *= np.where(instance.breakdowns.fails, up / (up + down), 1.0)
        if instance.maintenance is not None:
            plan = instance.maintenance
            takes = np.where(plan.period < NEVER, plan.duration.mean, 0.0)
            available *= 1 - takes / plan.period
        if instance.shifts is not None:
            open_ = (instance.shifts.end - instance.shifts.start).sum(1)
            available *= open_ / instance.shifts.period
        return demand / (self.tool_counts * available)

    def _visits(self) -> np.ndarray:
        """Expected times that a lot does each operation of its route."""
        visits = []
        for p in range(len(self.products)):
            mine = [o for o in self.operations if o["product"] == p]
            move = np.zeros((len(mine), len(mine)))
            for i, operation in enumerate(mine):
                # Coming to an operation, it is done with some probability, and what follows it
                # then may be a return.
                back = operation["sampled"] * operation["rework"]
                move[i, operation["back"] - self.first[p]] += back
                if i + 1 < len(mine):
                    move[i, i + 1] += 1 - back
            start = np.eye(len(mine))[0]
            comes = np.linalg.solve(np.eye(len(mine)) - move.T, start)
            visits += list(comes * [o["sampled"] for o in mine])
        return np.array(visits)


def _table(value: Any, place: str, allowed: Iterable[str] | None = None) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise FabError(f"{place} is {value!r}, but must be a table.")
    if allowed is not None:
        for key in value:
            _choice(str(key), f"{place}", list(allowed), "entry")
    return dict(value)


def _choice(value: Any, place: str, options: Iterable[str], what: str = "value") -> str:
    options = list(options)
    if value not in options:
        near = difflib.get_close_matches(str(value), options, n=1, cutoff=0.5)
        hint = f"did you mean '{near[0]}'?" if near else f"there are {', '.join(options[:12])}."
        raise FabError(f"{place}: there is no {what} {value!r}; {hint}")
    return str(value)


def _number(value: Any, place: str, low: float = -math.inf, high: float = math.inf) -> float:
    is_number = isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or not low <= value <= high:
        bounds = [f"at least {low:g}"] * (low > -math.inf) + [f"at most {high:g}"] * (
            high < math.inf
        )
        raise FabError(f"{place} is {value!r}, but must be a number {' and '.join(bounds)}.")
    return float(value)


def _whole(value: Any, place: str, low: int, high: int = 2**31 - 1) -> int:
    number = _number(value, place, low, high)
    if number != int(number):
        raise FabError(f"{place} is {value!r}, but must be a whole number.")
    return int(number)


def _range(value: Any, place: str, **bounds: float) -> tuple[float, float]:
    pair = value if isinstance(value, (list, tuple)) else (value, value)
    if len(pair) != 2:
        raise FabError(f"{place} is {value!r}, but must be a number or [low, high].")
    low, high = (_number(x, place, **bounds) for x in pair)
    if low > high:
        raise FabError(f"{place} is {value!r}, but must not fall.")
    return low, high


def _index(names: list[str], name: str) -> int:
    if name not in names:
        names.append(name)
    return names.index(name)
