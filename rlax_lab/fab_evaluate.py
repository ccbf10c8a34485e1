"""`rlax-lab fab evaluate`: rules and policies on many fabs of a family, with the same draws; and
`rlax-lab fab pool`, of several such evaluations."""

import itertools
import json
import math
import shlex
import time
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter
from rich.console import Console
from scipy import stats  # type: ignore[import-untyped]

from rlax_lab import commands, fab_commands, fab_train, plots, provenance
from rlax_lab.checkpoint import check_new, write_json
from rlax_lab.config import configuration, setting, to_json
from rlax_lab.errors import InputError, nearest
from rlax_lab.packages import ours
from rlax_lab.progress import duration

# Name, heading, factor, and whether less is better.
FIGURES = (
    ("objective", "objective", 1.0, False),
    ("cycle_time", "cycle time, days", 1.0, True),
    ("weighted_tardiness", "weighted tardiness, h", 1.0, True),
    ("on_time", "on time, %", 100.0, False),
    ("lots_per_day", "lots/day", 1.0, False),
    ("wip", "lots in the fab", 1.0, True),
    ("utilisation", "utilisation, %", 100.0, False),
    ("bottleneck", "busiest group, %", 100.0, False),
    ("energy_per_lot", "energy, kWh/lot", 1.0, True),
)
# What users ask of a policy, against first in, first out: figure, how it is measured, how much.
TARGETS = (
    ("cycle_time", "ratio", -0.25),
    ("utilisation", "difference", 0.12),
    ("lots_per_day", "ratio", 0.20),
    ("on_time", "value", 0.92),
    ("energy_per_lot", "ratio", -0.10),
)


# Settings that say which fabs, and those that say who is compared on them.
_WHICH = frozenset({"seed", "configs", "at_once"})
_WHO = frozenset({"policies", "rules"})
# How many times as many slots there are for fabs that overflow.
_WIDER = 4


@configuration
class Settings:
    """What is compared on which fabs."""

    family: str = setting("fab-20x300", "of random fabs")
    rules: str = setting(
        f"setup > FIFO, setup > EDD, setup > CR, setup > WSPT, {fab_train.RULE}",
        "rules with commas between; the first is what targets are measured against",
    )
    configs: int = setting(100, "fabs, each simulated under each", low=2)
    replications: int = setting(
        1, "simulations of each, with draws of their own; a fab's figures are their means", low=1
    )
    seed: int = setting(0, "of the first fab and of its draws; the others count up", low=0)
    held_out: bool = setting(True, "fabs that no policy can have been trained on")
    days: float | None = setting(
        None, "that count; none: four times the work of the longest route", above=0
    )
    warmup: float | None = setting(None, "days before them; none: as many", low=0)
    at_once: int = setting(256, "fabs at once; finished ones are never done again", low=1)


def command(words: list[str]) -> None:
    """``fab evaluate``.

    Raises:
      InputError: on bad input.
    """
    parser = commands.Parser(
        prog="rlax-lab fab evaluate",
        description="Simulates policies and rules on many fabs of a family, with the same draws. "
        "Stopped, it goes on where it was when started again with the same words, and with more "
        "--configs from there.",
    )
    parser.add_argument(
        "policies",
        nargs="*",
        type=Path,
        help="folders of training runs, each with a policy for each of its seeds",
    )
    parser.add_argument("--out", type=Path, help="a folder (default: a new one under runs/)")
    parser.add_argument(
        "--known",
        type=Path,
        action="append",
        default=[],
        help="the folder of an earlier evaluation: rules that were simulated there on the same "
        "fabs are not simulated again; may be given several times",
    )
    commands.add_settings(parser, Settings)
    parsed = parser.parse(words)
    settings = commands.build(Settings, commands.given(parsed))
    commands.use_all_cores()
    commands.use_compilation_cache()
    folder = parsed.out or fab_commands.new_folder("evaluate", settings.family)
    contenders = _contenders(settings, parsed.policies)
    # With how far they were trained: figures of one policy never stand beside those of another.
    trained = {str(path): fab_train.updates(path) for path in parsed.policies}
    record = {"policies": trained, **to_json(settings)}
    known = [_Piece.read(path) for path in parsed.known]
    for piece in known:
        piece.check_like(record, folder, _WHICH | _WHO)
    _prepare(folder, record | ({"known": [str(x) for x in parsed.known]} if known else {}))
    console = Console(highlight=False)
    found = simulate(settings, contenders, folder / "parts", console, known)
    about = {
        "command": shlex.join(["rlax-lab", "fab", "evaluate", *words]),
        "settings": record,
        "trained": {path.name: fab_train.read_record(path) for path in parsed.policies},
        "known": [one for piece in known for one in piece.origins()],
    }
    _finish(folder, about, found)


def pool(words: list[str]) -> None:
    """``fab pool``.

    Raises:
      InputError: on bad input, and evaluations that do not make one.
    """
    parser = commands.Parser(
        prog="rlax-lab fab pool",
        description="Makes one evaluation of several, as from several machines, that differ in "
        "nothing but their fabs (--seed and --configs of `fab evaluate`).",
    )
    parser.add_argument("runs", nargs="+", type=Path, help="folders of `fab evaluate`")
    parser.add_argument("--out", type=Path, help="a folder (default: a new one under runs/)")
    parsed = parser.parse(words)
    pieces = sorted((_Piece.read(path) for path in parsed.runs), key=lambda piece: piece.seeds[0])
    for one, other in itertools.combinations(pieces, 2):
        one.check_beside(other)
    settings = pieces[0].about["settings"]
    folder = parsed.out or fab_commands.new_folder("evaluate", settings["family"])
    check_new(folder)
    folder.mkdir(parents=True, exist_ok=True)
    found = {
        name: {f: np.concatenate([piece.found[name][f] for piece in pieces]) for f, *_ in FIGURES}
        for name in pieces[0].found
    }
    about = {
        "command": shlex.join(["rlax-lab", "fab", "pool", *words]),
        "settings": {
            **settings,
            "configs": sum(piece.about["configs"] for piece in pieces),
        },
        "trained": pieces[0].about["trained"],
        "pieces": [one for piece in pieces for one in piece.origins()],
    }
    _finish(folder, about, found)


def _finish(folder: Path, about: dict[str, Any], found: dict[str, dict[str, np.ndarray]]) -> None:
    """What is left of an evaluation once its figures are there."""
    summary = summarize(found)
    write_json(folder / "evaluation.json", {**about, **summary, **provenance.stamp()})
    raw: dict[str, Any] = {
        f"{name}/{figure}": x for name, each in found.items() for figure, x in each.items()
    }
    np.savez_compressed(folder / "configurations.npz", **raw)
    if summary["policies"]:
        draw(found, summary, folder / "ahead.png")
    show(summary)
    print(f"\n{folder}")


class _Piece(NamedTuple):
    """An evaluation as its folder has it.

    Attributes:
      folder: that folder.
      about: what is in ``evaluation.json``.
      found: of every contender the figures ``[configs]``.
    """

    folder: Path
    about: dict[str, Any]
    found: dict[str, dict[str, np.ndarray]]

    @classmethod
    def read(cls, folder: Path) -> "_Piece":
        """Raises InputError where there is none."""
        for name in ("evaluation.json", "configurations.npz"):
            if not (folder / name).is_file():
                raise InputError(f"{folder} has no {name}; a finished `fab evaluate` has.")
        about = json.loads((folder / "evaluation.json").read_text())
        raw = np.load(folder / "configurations.npz")
        return cls(
            folder,
            about,
            {name: {f: raw[f"{name}/{f}"] for f, *_ in FIGURES} for name in about["figures"]},
        )

    @property
    def seeds(self) -> list[int]:
        """Of its fabs."""
        first = self.about["settings"]["seed"]
        alone = [{"seeds": [first, first + self.about["configs"] - 1]}]
        ranges = (piece["seeds"] for piece in self.about.get("pieces", alone))
        return [seed for first, last in ranges for seed in range(first, last + 1)]

    def origins(self) -> list[dict[str, Any]]:
        """What a result says that has its figures: of each of its pieces, whence it is."""
        if "pieces" in self.about:
            return list(self.about["pieces"])
        said = ("command", *provenance.FIELDS, "known")
        seeds = [self.seeds[0], self.seeds[-1]]
        return [{"seeds": seeds} | {x: self.about[x] for x in said if self.about.get(x)}]

    def of(self, name: str, seeds: list[int]) -> dict[str, np.ndarray] | None:
        """The figures of a rule in the fabs of `seeds`; None unless it has them all."""
        if name not in self.found or name.startswith(fab_commands.POLICY):
            return None
        place = {seed: i for i, seed in enumerate(self.seeds)}
        if not place.keys() >= set(seeds):
            return None
        where = [place[seed] for seed in seeds]
        return {figure: x[where] for figure, x in self.found[name].items()}

    def check_like(self, settings: dict[str, Any], other: Path, but: AbstractSet[str]) -> None:
        """Raises InputError unless those settings are its own, `but` for some."""
        for name, mine in self.about["settings"].items():
            if name not in but and mine != settings[name]:
                raise InputError(
                    f"{self.folder} and {other} differ in {name}: {mine} and {settings[name]}."
                )

    def check_beside(self, other: "_Piece") -> None:
        """Raises InputError unless `other` is alike, and of other fabs than these."""
        self.check_like(other.about["settings"], other.folder, _WHICH)
        if self.about["trained"] != other.about["trained"]:
            raise InputError(f"{self.folder} and {other.folder} are of policies trained otherwise.")
        mine, theirs = self.seeds, other.seeds
        if not set(mine).isdisjoint(theirs):
            raise InputError(
                f"{self.folder} has the fabs of seeds {mine[0]} to {mine[-1]}, and "
                f"{other.folder} those of {theirs[0]} to {theirs[-1]}; none may be in both."
            )


def _contenders(settings: Settings, policies: list[Path]) -> dict[str, Any]:
    """From names to functions ``plan -> rule``.

    Raises:
      InputError: on a rule, a family or a policy that there is not.
    """
    families, wrong = ours("fab.generator").FAMILIES, ours("fab.rules").RuleError
    if settings.family not in families:
        hint = nearest(settings.family, families) or f"; there are {', '.join(families)}."
        raise InputError(f"there is no family '{settings.family}'{hint}")
    found: list[tuple[str, Any]] = []
    for name in fab_commands.split_rules(settings.rules):
        try:
            rule = ours("fab.rules").parse(name)
        except wrong as error:
            raise InputError(fab_commands.sentence(error)) from error
        found.append((name, lambda params, rule=rule: rule))
    plan = ours("fab.generator").make(families[settings.family], 0)
    for path in policies:
        record = fab_train.read_record(path)
        for index in range(record["seeds"]):
            seed = f" seed {record['seed'] + index}" if record["seeds"] > 1 else ""
            name = f"{fab_commands.POLICY}{path.name}{seed}"
            found.append((name, fab_train.policy(path, plan, index)))
    named = dict(found)
    if len(named) < len(found):
        raise InputError("two of the rules or policies have the same name.")
    return named


def _prepare(folder: Path, record: dict[str, Any]) -> None:
    """The folder, with what is asked for in ``config.json``; or one where the same was asked, be it
    of fewer or more fabs."""
    path = folder / "config.json"
    before = json.loads(path.read_text()) if path.is_file() else {}
    if {**before, "configs": record["configs"]} != record:
        check_new(folder)
        folder.mkdir(parents=True, exist_ok=True)
    write_json(path, record)


def simulate(
    settings: Settings,
    contenders: dict[str, Any],
    parts: Path,
    console: Console,
    known: Sequence["_Piece"] = (),
) -> dict[str, dict[str, np.ndarray]]:
    """Of every contender the figures ``[configs]``, saved piece by piece in the folder `parts`, and
    not simulated where some `known` evaluation has them."""
    parts.mkdir(parents=True, exist_ok=True)
    family = ours("fab.generator").FAMILIES[settings.family]
    programs = {name: _program(make) for name, make in contenders.items()}
    found: dict[str, list[dict[str, np.ndarray]]] = {name: [] for name in contenders}
    blocks = [
        range(first, min(first + settings.at_once, settings.configs))
        for first in range(0, settings.configs, settings.at_once)
    ]
    files = {
        block: [parts / f"{block[0]:06}-{block[-1]:06}-{i:03}.npz" for i in range(len(contenders))]
        for block in blocks
    }
    for block, (i, name), piece in itertools.product(blocks, enumerate(contenders), known):
        if not files[block][i].is_file():
            figures = piece.of(name, [settings.seed + i for i in block])
            if figures is not None:
                _save(files[block][i], figures)
    left = sum(len(block) for block in blocks for path in files[block] if not path.is_file())
    total = settings.configs * len(contenders)
    if left < total:
        console.print(f"{total - left:,} of {total:,} fabs and rules or policies are known already")
    template: Any = None
    began, done = time.monotonic(), 0
    for block, paths in files.items():
        seeds = [settings.seed + i for i in block]
        if not all(path.is_file() for path in paths):
            make = ours("fab.generator").make
            plans = [make(family, seed, held_out=settings.held_out) for seed in seeds]
            params, template = stack(plans, settings, template)
            keys = [
                jnp.stack([_key(seed, number) for seed in seeds])
                for number in range(settings.replications)
            ]
        for (name, program), path in zip(programs.items(), paths, strict=True):
            if not path.is_file():
                runs = [_played(program, params, own) for own in keys]
                figures = {key: np.mean([run[key] for run in runs], axis=0) for key in runs[0]}
                if figures.pop("late").any():
                    raise InputError(
                        f"under '{name}', a fab of the family overflows {_WIDER} times its slots."
                    )
                if not np.isfinite(figures["cycle_time"]).all():
                    raise InputError(f"under '{name}', no lot leaves some fab; give more --days.")
                _save(path, figures)
                done, left = done + len(block), left - len(block)
                pace = (time.monotonic() - began) / done
                console.print(
                    f"fabs {block[0] + 1} to {block[-1] + 1} under {name}: "
                    f"objective {figures['objective'].mean():.4f}, {duration(pace * left)} left"
                )
            found[name].append(dict(np.load(path)))
    return {
        name: {figure: np.concatenate([part[figure] for part in each]) for figure, *_ in FIGURES}
        for name, each in found.items()
    }


def _save(path: Path, figures: dict[str, np.ndarray]) -> None:
    """The whole file or none."""
    partial = path.with_suffix(".partial.npz")
    raw: dict[str, Any] = dict(figures)
    np.savez(partial, **raw)
    partial.replace(path)


def _played(program: Any, params: Any, keys: jax.Array) -> dict[str, np.ndarray]:
    """Figures of fabs ``[B]``. Those to which more lots come than they have slots for are simulated
    again with more: the slots are room in memory, not a part of the fab."""
    figures = {name: np.array(x) for name, x in program(params, keys).items()}
    late = np.flatnonzero(figures["late"])
    if not len(late):
        return figures
    # Some of them twice, so that there are few numbers of fabs to compile for.
    late = np.resize(late, 2 ** math.ceil(math.log2(len(late))))
    again, keys = jax.tree.map(lambda x: x[late], (params, keys))
    instance = again.instance.replace(slots=_WIDER * again.instance.slots)
    for name, x in program(again.replace(instance=instance), keys).items():
        figures[name][late] = x
    return figures


def _key(seed: int, replication: int) -> jax.Array:
    """Of a replication's draws; the first is the seed's own."""
    key = jax.random.key(seed)
    return jax.random.fold_in(key, replication) if replication else key


def stack(plans: list[Any], settings: Settings, template: Any = None) -> tuple[Any, Any]:
    """Parameters of fabs ``[B]``, no smaller than those before, so that few are compiled for."""
    instance = ours("fab.instance")
    each = []
    for plan in plans:
        span = fab_train.work_days(plan)
        days = 4 * span if settings.days is None else settings.days
        warmup = days if settings.warmup is None else settings.warmup
        each.append(ours("fab.env").make_params(plan, days, warmup))
    own = [jax.tree.map(np.asarray, params.instance) for params in each]
    stacked = instance.stack(own if template is None else [*own, template])
    template = jax.tree.map(lambda x: x[-1], stacked)
    if len(stacked.first) > len(own):
        stacked = jax.tree.map(lambda x: x[:-1], stacked)
    rest = [params.replace(instance=None) for params in each]
    params = jax.tree.map(lambda *x: jnp.stack([jnp.asarray(y) for y in x]), *rest)
    return params.replace(instance=jax.tree.map(jnp.asarray, stacked)), template


def _program(make: Any) -> Any:
    """A jitted ``(params [B], keys [B]) -> figures [B]``, each fab under its own rule from 0 on."""
    figures, simulator = ours("fab.figures"), ours("fab.simulate")

    def all_of_them(params: Any, keys: jax.Array) -> dict[str, jax.Array]:
        empty = figures.Window(jnp.int32(0), jnp.int32(0))
        start = simulator.start(params.instance, keys, empty, batched=True)
        start = start._replace(window=figures.Window(params.warmup, params.horizon))
        state = simulator.run_own(params, lambda own: (own.instance, make(own)), start)
        return jax.vmap(outcome)(params, state)

    return jax.jit(all_of_them)


def outcome(params: Any, fab: Any) -> dict[str, jax.Array]:
    """Figures of one fab at the end of its window, scalars: as `FIGURES`, and whether it is
    ``late``, with too few slots. The objective is the mean rate of the reward."""
    figures = fab.figures
    ticks = (fab.window.end - fab.window.start).astype(jnp.float32)
    left = figures.finished.sum().astype(jnp.float32)
    totals = ours("fab.env").window_totals(params, fab)
    parts = ours("fab.env").objectives(params, totals)
    mean = lambda x: x.as_float().sum() / left  # noqa: E731
    tools = params.instance.tools.sum()
    return {
        "objective": params.weights @ parts * params.scale / ticks,
        "cycle_time": mean(figures.cycle_time) / params.day,
        "weighted_tardiness": 24 * mean(figures.weighted_tardiness) / params.day,
        "on_time": figures.on_time.sum() / left,
        "lots_per_day": left / (ticks / params.day),
        "wip": totals.lot_time / ticks,
        "utilisation": totals.processing.sum() / (ticks * tools),
        "bottleneck": busiest(params.instance, totals),
        "energy_per_lot": ours("fab.env").energy(params, totals) * 24 / params.day / left,
        "late": fab.late,
    }


def busiest(instance: Any, totals: Any) -> jax.Array:
    """Of the time in which the tools of a group were not down, the part that they processed, in the
    busiest one of those that take lots one by one.

    At the same mix of products no policy has more than one over this times the throughput.
    """
    up = instance.tools.sum(1) * totals.tick - totals.down
    part = totals.processing / jnp.maximum(up, 1.0)
    if instance.batches is not None:
        batched = jnp.zeros(part.shape, bool).at[instance.group].max(instance.batches.family > 0)
        part = jnp.where(batched, 0.0, part)
    return part.max()


def summarize(found: dict[str, dict[str, np.ndarray]]) -> dict[str, Any]:
    """Means with intervals, paired differences and targets, of figures ``[configs]`` by name."""
    names = list(found)
    policies = [name for name in names if name.startswith(fab_commands.POLICY)]
    rules = [name for name in names if name not in policies]
    best = max(rules, key=lambda name: found[name]["objective"].mean())
    result: dict[str, Any] = {
        "configs": len(found[names[0]]["objective"]),
        "best_rule": best,
        "figures": {
            name: {figure: mean_of(found[name][figure]) for figure, *_ in FIGURES} for name in names
        },
        "policies": {},
    }
    for name in policies:
        mine = found[name]
        against = {}
        for rule in rules:
            theirs = found[rule]
            better = mine["objective"] > theirs["objective"]
            test = stats.binomtest(int(better.sum()), len(better))
            against[rule] = {
                "better_objective": float(np.mean(better)),
                "better_ci95": list(test.proportion_ci(method="wilson")),
                "differences": {f: mean_of(mine[f] - theirs[f]) for f, *_ in FIGURES},
                "ratios": {f: _ratio(mine[f], theirs[f]) for f, *_ in FIGURES if f != "objective"},
            }
        targets = []
        for figure, kind, wanted in TARGETS:
            value = _measured(kind, mine[figure], found[rules[0]][figure])
            met = value["mean"] <= wanted if wanted < 0 else value["mean"] >= wanted
            targets.append({"figure": figure, "kind": kind, "wanted": wanted, **value, "met": met})
        result["policies"][name] = {"against": against, "targets": targets}
    return result


def mean_of(x: np.ndarray) -> dict[str, Any]:
    """The mean of ``[configs]`` with its 95 % t-interval, as result files have it."""
    mean, low, high = fab_commands.interval(x)
    return {"mean": mean, "ci95": [low, high]}


def _measured(kind: str, x: np.ndarray, y: np.ndarray) -> dict[str, Any]:
    """What a target is about: the change from `y` to `x`, relative or not, or `x` itself."""
    if kind == "ratio":
        return _ratio(x, y, -1.0)
    return mean_of(x - y) if kind == "difference" else mean_of(x)


def _ratio(x: np.ndarray, y: np.ndarray, plus: float = 0.0) -> dict[str, Any]:
    """The ratio of two means over the same fabs, with an interval by the delta method."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    ratio = float(x.mean() / y.mean())
    half = float(stats.t.ppf(0.975, len(x) - 1) * stats.sem(x - ratio * y) / np.abs(y.mean()))
    ratio += plus
    return {"mean": ratio, "ci95": [ratio - half, ratio + half]}


@plots.style()
def draw(found: dict[str, dict[str, np.ndarray]], summary: dict[str, Any], out: Path) -> Path:
    """How far policies are ahead of the best rule in each fab, and in how late lots are."""
    best = found[summary["best_rule"]]
    figure = Figure(figsize=(9, 3.8))
    left, right = figure.subplots(1, 2)
    for i, name in enumerate(summary["policies"]):
        mine, look = found[name], plots.look(i)
        ahead = np.sort(mine["objective"] - best["objective"])
        part = 100 * np.arange(1, 1 + len(ahead)) / len(ahead)
        label = f"{name}:\nahead in {np.mean(ahead > 0):.1%}"
        left.plot(ahead, part, **look, label=label)
        right.scatter(
            best["weighted_tardiness"],
            mine["weighted_tardiness"],
            s=9,
            alpha=0.4,  # thousands lie on each other
            linewidths=0,
            color=look["color"],
            label=name,
        )
    left.axvline(0, **plots.THRESHOLD)
    left.xaxis.set_major_locator(MaxNLocator(6))
    left.set_xlabel("objective: policy minus rule, same draws")
    left.set_ylabel("part of the fabs, %")
    shown = [best, *(found[name] for name in summary["policies"])]
    both = [figures["weighted_tardiness"] for figures in shown]
    ends = np.maximum([np.min(both), np.max(both)], 1e-2)
    right.plot(ends, ends, **plots.THRESHOLD)
    right.set_xscale("log")
    right.set_yscale("log")
    for axis in (right.xaxis, right.yaxis):
        axis.set_minor_formatter(NullFormatter())
    right.set_xlabel(f"weighted tardiness, h,\nunder {summary['best_rule']}")
    right.set_ylabel("under the policy")
    left.legend(loc="best", fontsize=8)
    figure.suptitle(f"{summary['configs']} fabs")
    return plots.save(figure, out)


def show(summary: dict[str, Any]) -> None:
    """The table: figures, how far policies are ahead, and the targets."""
    rows = []
    for name, figures in summary["figures"].items():
        row = {"": name + (" (best rule)" if name == summary["best_rule"] else "")}
        for figure, heading, factor, _ in FIGURES:
            row[heading] = f"{figures[figure]['mean'] * factor:.4g}"
        rows.append(row)
    print(f"\nmeans over {summary['configs']} fabs\n")
    fab_commands.print_table(rows)
    for name, found in summary["policies"].items():
        print(f"\n{name} against\n")
        rows = []
        for rule, each in found["against"].items():
            low, high = (100 * x for x in each["better_ci95"])
            share = f"{100 * each['better_objective']:.1f} ({low:.1f} to {high:.1f}) %"
            row = {"": rule, "better in": share}
            low, high = each["differences"]["objective"]["ci95"]
            row["objective"] = f"{low:+.4f} to {high:+.4f}"
            for figure in ("cycle_time", "weighted_tardiness", "lots_per_day"):
                low, high = (100 * (x - 1) for x in each["ratios"][figure]["ci95"])
                row[figure.replace("_", " ")] = f"{low:+.1f} to {high:+.1f} %"
            rows.append(row)
        fab_commands.print_table(rows)
        print(f"\n{name}, targets against {next(iter(found['against']))}\n")
        fab_commands.print_table(
            [
                {
                    "": target["figure"].replace("_", " "),
                    "wanted": f"{target['wanted']:+.0%}"
                    if target["kind"] != "value"
                    else f"{target['wanted']:.0%}",
                    "found": f"{target['mean']:+.1%}"
                    if target["kind"] != "value"
                    else f"{target['mean']:.1%}",
                    "interval": "{:+.1%} to {:+.1%}".format(*target["ci95"]),
                    "met": "yes" if target["met"] else "no",
                }
                for target in found["targets"]
            ]
        )
