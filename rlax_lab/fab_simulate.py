"""Fabs under rules and policies: `rlax-lab fab run` and `fab compare`."""

import contextlib
import csv
import math
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from rlax_lab import commands
from rlax_lab import config as configs
from rlax_lab.checkpoint import check_new, write_json
from rlax_lab.errors import InputError
from rlax_lab.fab_commands import (
    INSTANCE,
    POLICY,
    interval,
    load_fab,
    many,
    new_folder,
    parser_of,
    print_table,
    sentence,
    split_rules,
)
from rlax_lab.fab_runs import Result, Standing, Trace, days_by_default, simulate
from rlax_lab.packages import ours
from rlax_lab.progress import count, duration

# Rows of trace.csv that are written without being asked for.
_ROWS = 100_000


@configs.configuration
class Simulation:
    """How a fab is simulated."""

    replications: int = configs.setting(
        10, "fabs with random numbers of their own, simulated at once", low=1
    )
    days: float | None = configs.setting(
        None,
        "simulated days, warm-up included; none: 20 times the work of the longest route and no "
        "less than 20000 operations, or until every lot has left where releases are a list",
        above=0,
    )
    warmup: float | None = configs.setting(
        None,
        "days at the start that figures leave out; none: half of all, or nothing where releases "
        "are a list",
        low=0,
    )
    seed: int = configs.setting(0, "of the replications", low=0, high=2**31 - 1)
    fab_seed: int = configs.setting(0, "which fab of a random family", low=0, high=2**31 - 1)
    trace: bool = configs.setting(
        False, f"write trace.csv even if it has more than {_ROWS} rows (run only)"
    )


def run(words: list[str]) -> None:
    """``fab run``.

    Raises:
      InputError: on bad input.
    """
    parser = parser_of("run")
    parser.add_argument("instance", help=INSTANCE)
    parser.add_argument("--rule", required=True, help="a rule, as `rlax-lab fab rules` says")
    parsed, settings = _simulation(parser, words)
    _conduct("run", words, parsed.instance, [parsed.rule.strip()], settings, parsed.out)


def compare(words: list[str]) -> None:
    """``fab compare``.

    Raises:
      InputError: on bad input.
    """
    parser = parser_of("compare")
    parser.add_argument("instance", help=INSTANCE)
    parser.add_argument(
        "--rules", required=True, help="rules with commas between; the first is the base line"
    )
    parser.add_argument(
        "--policy", type=Path, action="append", default=[], help="the folder of a `fab train` run"
    )
    parsed, settings = _simulation(parser, words)
    rules = split_rules(parsed.rules)
    if len(rules) + len(parsed.policy) < 2:
        raise InputError(f"--rules is {parsed.rules!r}, but comparing needs at least two rules.")
    for rule in rules:
        if rules.count(rule) > 1:
            raise InputError(f"--rules has the rule '{rule}' twice.")
    _conduct("compare", words, parsed.instance, rules, settings, parsed.out, parsed.policy)


def _simulation(parser: Any, words: list[str]) -> tuple[Any, Simulation]:
    parser.add_argument("--out", type=Path, help="a folder (default: a new one under runs/)")
    commands.add_settings(parser, Simulation)
    parsed = parser.parse(words)
    return parsed, commands.build(Simulation, commands.given(parsed))


def _span_of_time(plan: Any, settings: Simulation) -> tuple[float | None, float]:
    """Days and days of warm-up; None where the run goes on until all lots have left.

    Raises:
      InputError: where there are too many, or only warm-up.
    """
    days, warmup = settings.days, settings.warmup
    if days is None:
        days = days_by_default(plan)
        if days is None:
            if warmup:
                raise InputError(
                    "--warmup needs --days, because releases are a list and the run ends when all "
                    "lots have left."
                )
            return None, 0.0
        if warmup is not None:
            days = max(days, 2 * warmup)
    elif warmup is None:
        is_list = days_by_default(plan) is None
        warmup = 0.0 if is_list else days / 2
    warmup = days / 2 if warmup is None else warmup
    longest = ours("fab.instance").LONGEST_RUN * plan.seconds / 86400
    if days > longest:
        # Rounded down, so that the number in the sentence is allowed.
        most = math.floor(longest * 100) / 100
        raise InputError(
            f"days is {days:g}, but must be at most {most:.12g} for this fab, whose ticks are "
            f"{plan.seconds:g} seconds (fewer `ticks` per {plan.unit} allow more)."
        )
    if days <= warmup:
        raise InputError(f"days is {days:g}, but must be above warmup, which is {warmup:g}.")
    if round(days * 86400 / plan.seconds) <= round(warmup * 86400 / plan.seconds):
        raise InputError(
            f"days is {days:g}, but must be above warmup by at least a tick of {plan.seconds:g} "
            "seconds."
        )
    return days, warmup


def _conduct(
    name: str,
    words: Sequence[str],
    instance: str,
    rules: list[str],
    settings: Simulation,
    out: Path | None,
    policies: Sequence[Path] = (),
) -> None:
    commands.use_all_cores()
    plan = load_fab(instance, settings.fab_seed)
    parse, error = ours("fab.rules").parse, ours("fab.rules").RuleError
    for rule in rules:
        if rule.count("(") != rule.count(")"):
            raise InputError(f"rule '{rule}': its brackets do not match.")
        try:
            parse(rule)
        except error as wrong:
            raise InputError(sentence(wrong)) from wrong
    days, warmup = _span_of_time(plan, settings)
    folder = out or new_folder("fab", plan.name)
    check_new(folder)
    commands.use_compilation_cache()
    from rlax_lab import fab_train

    deciders = {f"{POLICY}{path.name}": fab_train.decider(path, plan) for path in policies}
    rules = [*rules, *deciders]
    console = Console(highlight=False, soft_wrap=True)
    with _made(folder):
        _announce(console, plan, rules, settings, days, warmup)
        results = []
        for rule in rules:
            with _Progress(console, plan, rule, settings.replications, days) as progress:
                results.append(
                    simulate(
                        plan,
                        rule,
                        settings.replications,
                        days,
                        warmup,
                        settings.seed,
                        progress.report,
                        deciders.get(rule),
                    )
                )
            progress.close(results[-1])
    summary = {
        "command": shlex.join(["rlax-lab", "fab", name, *words]),
        "instance": instance,
        "rules": rules,
        **configs.to_json(settings),
        "days": days,
        "warmup": warmup,
        **_summary(plan, results),
    }
    summary.pop("trace")
    from rlax_lab import fab_plots, fab_report, provenance  # matplotlib is slow to import

    files = [folder / "summary.json"]
    stamp = provenance.stamp()
    write_json(files[0], summary | stamp)
    pictures = {}
    for number, result in enumerate(results, start=1):
        gantt = "gantt.png" if name == "run" else f"gantt-{number}.png"
        path = fab_plots.gantt(plan, result, folder / gantt)
        pictures[path] = f"What the tools did under {result.rule}, in a stretch of replication 0."
    path = fab_plots.utilisation(plan, results, folder / "utilisation.png")
    pictures[path] = (
        "What part of the time the tools of each group process, set up, are down, idle."
    )
    path = fab_plots.distribution(plan, results, "cycle_time", folder / "cycle_times.png")
    pictures[path] = "How long lots were in the fab: all replications, after the warm-up."
    path = fab_plots.distribution(plan, results, "tardiness", folder / "tardiness.png")
    pictures[path] = "How late lots left, of which 0 are on time: all replications, likewise."
    path = fab_plots.wip(plan, results, folder / "wip.png")
    pictures[path] = "Lots in the fab over time, in replication 0."
    for number, trained in enumerate(policies, start=1):
        changed = fab_train.importance(trained, plan)
        name_of = f"{POLICY}{trained.name}"
        path = fab_plots.importance(changed, name_of, folder / f"importance-{number}.png")
        pictures[path] = f"Which features move {name_of}: what it decides without them."
    rows = _rows(plan, results, summary)
    about = f"{many(settings.replications, 'replication')}, {_span_in_words(days, warmup)}."
    if len(results) > 1:
        about += " All have the same random numbers, so differences are far surer than the means."
    facts = {key: summary[key] for key in ("command", "seed", "fab_seed")} | stamp
    page = folder / "report.html"
    files += [*pictures, fab_report.write(page, plan.name, about, rows, pictures, facts)]
    moved = len(results[0].trace.moved)
    traced = settings.trace or moved <= _ROWS
    if name == "run" and traced:
        files.append(_write_trace(plan, results[0].trace, folder / "trace.csv"))
    console.print()
    print_table(rows)
    console.print(f"\n{folder}: {', '.join(file.name for file in files)}")
    if name == "run" and not traced:
        console.print(f"--trace writes the {moved} rows of trace.csv as well.")


@contextlib.contextmanager
def _made(folder: Path) -> Iterator[None]:
    """Makes a folder; takes it away again where what follows fails."""
    new = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder} cannot be made: {error.strerror}.") from error
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError):
            for path in new:
                path.rmdir()
        raise


def _announce(
    console: Console,
    plan: Any,
    rules: list[str],
    settings: Simulation,
    days: float | None,
    warmup: float,
) -> None:
    under = f"under {rules[0]}" if len(rules) == 1 else f"under {len(rules)} rules"
    console.print(
        f"{plan.name} {under}: {many(settings.replications, 'replication')}, "
        f"{_span_in_words(days, warmup)}"
    )


def _span_in_words(days: float | None, warmup: float) -> str:
    if days is None:
        return "until all lots have left"
    return f"{days:g} days" + (f", the first {warmup:g} as warm-up" if warmup else "")


class _Progress:
    """A live line on a terminal; elsewhere a plain line every few seconds."""

    EVERY = 10.0  # seconds

    def __init__(
        self, console: Console, plan: Any, rule: str, replications: int, days: float | None
    ) -> None:
        self.console, self.plan, self.rule, self.replications = console, plan, rule, replications
        self.days = days
        self.live = Live(console=console, auto_refresh=False, transient=True)
        self.said = 0.0

    def __enter__(self) -> "_Progress":
        if self.console.is_terminal:
            self.live.start()
            self.live.update(f"{self.rule}: compiling", refresh=True)
        return self

    def __exit__(self, *_: Any) -> None:
        self.live.stop()

    def report(self, standing: Standing) -> None:
        """Where the simulation stands."""
        every = 0.1 if self.console.is_terminal else self.EVERY
        if standing.seconds - self.said < every:
            return
        self.said = standing.seconds
        part = standing.done / standing.total
        if self.days is None:
            where = f"{standing.done:.0f}/{standing.total:.0f} lots"
        else:
            where = f"{part * self.days:.4g}/{self.days:g} days"
        cells = [
            f"{where} x {self.replications}",
            f"{count(standing.dispatches / standing.seconds)} dispatches/s",
        ]
        if part > 0:
            cells.append(f"{duration(standing.seconds * (1 - part) / part)} left")
        if not self.console.is_terminal:
            self.console.print("  ".join([f"  {self.rule}", *cells]))
            return
        line = Table.grid(padding=(0, 2))
        line.add_row(self.rule, ProgressBar(100, 100 * part, width=20), *cells)
        self.live.update(line, refresh=True)

    def close(self, result: Result) -> None:
        """A line that stays."""
        speed = count(result.dispatches / result.seconds)
        self.console.print(
            f"  {self.rule}: {count(result.dispatches)} dispatches in {duration(result.seconds)}, "
            f"{speed} dispatches/s, {duration(result.compile_seconds)} compiling"
        )


def _shown(plan: Any, results: list[Result]) -> list[tuple[str, str, float]]:
    """The figures of the table: name, what is shown, and by what it is multiplied."""
    unit = f"{plan.unit}s"
    rows = [
        ("makespan", f"makespan, {unit}", 1.0),
        ("cycle_time", f"cycle time, {unit}", 1.0),
        ("flow_factor", "flow factor", 1.0),
        ("tardiness", f"tardiness, {unit}", 1.0),
        ("weighted_tardiness", f"weighted tardiness, {unit}", 1.0),
        ("on_time", "on time, %", 100.0),
        ("finished", "lots that left", 1.0),
        ("lots_per_day", "lots/day", 1.0),
        ("wip", "lots in the fab", 1.0),
        ("utilisation", "utilisation, %", 100.0),
        ("energy_per_lot", "energy per lot, kWh", 1.0),
    ]
    return [row for row in rows if row[0] in results[0].figures]


def _summary(plan: Any, results: list[Result]) -> dict[str, Any]:
    # Where no lot left, energy per lot is infinite and all else undefined.
    known = {
        result.rule: {
            name: np.where(np.isfinite(x), x, np.nan) for name, x in result.figures.items()
        }
        for result in results
    }
    rows = []
    for result in results:
        figures = known[result.rule]
        row: dict[str, Any] = {
            "rule": result.rule,
            "figures": {
                name: _statistic(figures[name])
                for name in sorted(figures)
                if figures[name].ndim == 1
            },
            "groups": {
                group: {
                    name: _number(figures[name][:, g].mean())
                    for name in ("processing", "setup", "down", "idle")
                }
                for g, group in enumerate(plan.groups)
            },
            "products": {
                product: {
                    name: [_number(x) for x in figures[f"product_{name}"][:, p]]
                    for name in ("finished", "cycle_time", "flow_factor", "tardiness", "on_time")
                }
                for p, product in enumerate(plan.products)
            },
            "dispatches": result.dispatches,
            "seconds": result.seconds,
            "compile_seconds": result.compile_seconds,
            "dispatches_per_second": result.dispatches / result.seconds,
        }
        if result is not results[0]:
            row["minus_first"] = {
                name: _statistic(figures[name] - known[results[0].rule][name])
                for name in row["figures"]
            }
        rows.append(row)
    return {"fab": plan.name, "unit": plan.unit, "results": rows}


def _statistic(values: NDArray[np.float64]) -> dict[str, Any]:
    mean, low, high = interval(values)
    return {
        "mean": _number(mean),
        "ci95": [_number(low), _number(high)],
        "per_replication": [_number(x) for x in values],
    }


def _number(x: Any) -> float | None:
    """A number that JSON has, or None."""
    return float(x) if np.isfinite(x) else None


def _rows(plan: Any, results: list[Result], summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The table of the figures: a row each for one rule, a block each for several."""
    rows: list[dict[str, Any]] = []
    shown = _shown(plan, results)
    if len(results) == 1:
        for name, label, scale in shown:
            cells = _cells(summary["results"][0]["figures"][name], scale)
            rows.append({"": label, "mean": cells[0], "95 % interval": cells[1]})
        return rows
    first = f"minus {results[0].rule}"
    for name, label, scale in shown:
        columns = ("mean", "95 % interval", first, "95 % interval of that")
        rows.append({"": label} | dict.fromkeys(columns, ""))
        for result in summary["results"]:
            cells = _cells(result["figures"][name], scale)
            difference = ("", "")
            if "minus_first" in result:
                difference = _cells(result["minus_first"][name], scale)
            row = dict(zip(columns, (*cells, *difference), strict=True))
            rows.append({"": f"  {result['rule']}"} | row)
    return rows


def _cells(statistic: dict[str, Any], scale: float) -> tuple[str, str]:
    """Mean and interval, to the decimals that the interval makes sense of."""
    mean, (low, high) = statistic["mean"], statistic["ci95"]
    if mean is None:
        return "no lot left" if None in statistic["per_replication"] else "-", "-"
    if low is None:
        return f"{mean * scale:.5g}", "-"
    width = (high - low) * scale
    if width <= 1e-9 * abs(mean * scale):
        return f"{mean * scale:.5g}", f"{low * scale:.5g} to {high * scale:.5g}"
    # Two digits of the interval's width.
    digits = max(0, min(1 - math.floor(math.log10(width)), 6))
    texts = [f"{x * scale:.{digits}f}" for x in (mean, low, high)]
    texts = [text.lstrip("-") if float(text) == 0 else text for text in texts]
    return texts[0], f"{texts[1]} to {texts[2]}"


def _write_trace(plan: Any, trace: Trace, path: Path) -> Path:
    """Every lot that a tool started in replication 0, in the order of dispatches."""
    operation = np.arange(len(plan.instance.product))
    operation = operation - np.asarray(plan.instance.first)[plan.instance.product] + 1
    times = {
        name: getattr(trace, name)[trace.moved] / plan.ticks
        for name in ("start", "setup_end", "end", "down")
    }
    order = np.lexsort((trace.lot, trace.moved, trace.start[trace.moved]))
    try:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["dispatch", "lot", "product", "operation", "group", "tool", *times])
            for i in order:
                op, dispatch = trace.lot_op[i], trace.moved[i]
                writer.writerow(
                    [
                        dispatch,
                        trace.lot[i],
                        plan.products[plan.instance.product[op]],
                        operation[op],
                        plan.groups[trace.group[dispatch]],
                        trace.tool[dispatch] + 1,
                        *(f"{column[i]:.12g}" for column in times.values()),
                    ]
                )
    except OSError as error:
        raise InputError(f"Cannot write {path}: {error.strerror}.") from error
    return path
