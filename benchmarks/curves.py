"""The curves and tables that papers show, from one command.

    python benchmarks/curves.py [NAME ...] [--missing] [--work FOLDER]

runs the experiments and groups of ``curves.toml`` that are named, or all of them, through the
command line. Those that differ but in float fields of their configuration train side by side in one
program, as a sweep; the programs run one after the other. Each has a folder in ``runs/curves``, so
that the same command goes on after an interruption, and skips what is done there. What an
experiment found goes to ``benchmarks/results``: ``NAME.json`` (stamped), ``NAME.npz`` (every seed's
returns) and a picture.

    python benchmarks/curves.py --table

makes the pictures and RESULTS.md anew from those files, without training.
"""

import argparse
import json
import sys
import tomllib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import profiles
from rlax_lab.checkpoint import write_json
from rlax_lab.cli import ALGORITHMS
from rlax_lab.cli import main as rlax_lab
from rlax_lab.commands import use_all_cores
from rlax_lab.config import check, from_json, to_json
from rlax_lab.errors import InputError, nearest
from rlax_lab.plots import Curve, draw, read_curve, read_result
from rlax_lab.progress import count, duration
from rlax_lab.runs import reached
from rlax_lab.statistics import summarize

HERE = Path(__file__).parent
SUITE = HERE / "curves.toml"
RESULTS = HERE / "results"
TABLE = HERE.parent / "RESULTS.md"
# The group whose tasks are also shown together.
TOGETHER = "classic"
# What is said of two intervals that are not apart.
OVERLAP = "intervals overlap"


class Published(NamedTuple):
    """A number that others found.

    Attributes:
      value: mean return.
      steps: the environment steps it took.
      source: who found it, and by which protocol.
      algo: the algorithm, where it is not the experiment's.
    """

    value: float
    steps: int
    source: str
    algo: str | None = None


class Experiment(NamedTuple):
    """What is trained, and what it answers to; every field as ``curves.toml`` explains it."""

    name: str
    algo: str
    env: str
    total_steps: int
    seeds: int = 10
    config: dict[str, Any] = {}  # noqa: RUF012
    run: dict[str, Any] = {}  # noqa: RUF012
    target: float | None = None
    published: tuple[Published, ...] = ()
    label: str = ""
    expected: str = ""
    note: str = ""
    gpu: bool = False

    def words(self, reports: int = 20) -> list[str]:
        """The command line that runs it, as far as the folder."""
        words = ["train", self.algo, "--env", self.env, "--total-steps", str(self.total_steps)]
        for name, value in {**self.config, **self.run}.items():
            flag = "--" + name.replace("_", "-")
            if isinstance(value, bool):
                words.append(flag if value else f"--no-{flag[2:]}")
            else:
                text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
                words += [flag, text]
        return [*words, "--seeds", str(self.seeds), "--reports", str(reports)]

    def configuration(self) -> Any:
        """The algorithm's whole configuration.

        Raises:
          InputError: on a value or a field that cannot be.
        """
        given = {name: None if value == "none" else value for name, value in self.config.items()}
        module = _known(self.algo, ALGORITHMS, f"algorithm of {self.name}")
        config = from_json(module.Config, {"total_steps": self.total_steps, **given})
        check(config)
        return config

    def made(self, result: dict[str, Any]) -> bool:
        """Whether `result` is of this experiment as it is declared now.

        A field that was not there yet when the result was made had no say in it.
        """
        asked = {"algo": self.algo, "env": self.env, "seeds": self.seeds}
        if any(result.get(name) != value for name, value in asked.items()):
            return False
        config = to_json(self.configuration())
        return {k: v for k, v in config.items() if k in result["config"]} == result["config"]


class Program(NamedTuple):
    """Experiments that one program trains side by side, or one alone."""

    experiments: tuple[Experiment, ...]

    @property
    def name(self) -> str:
        return "+".join(experiment.name for experiment in self.experiments)

    def words(self, reports: int = 20) -> list[str]:
        """The command line that runs it, as far as the folder."""
        first = self.experiments[0]
        if len(self.experiments) == 1:
            return first.words(reports)
        configs = [to_json(experiment.configuration()) for experiment in self.experiments]
        values = {name: [config[name] for config in configs] for name in configs[0]}
        varied = {name: list_ for name, list_ in values.items() if len(set(map(str, list_))) > 1}
        _, *words = first._replace(config=first.config | varied).words(reports)
        return ["sweep", *words, "--method", "zip", "--fresh-seeds", "0"]


class Group(NamedTuple):
    """A section of the table; one with a baseline is an ablation of it."""

    name: str
    title: str
    about: str
    experiments: tuple[str, ...]
    baseline: str | None = None
    baseline_label: str = ""


class Suite(NamedTuple):
    """All groups and all experiments, in their order."""

    groups: dict[str, Group]
    experiments: dict[str, Experiment]


def load(path: Path = SUITE) -> Suite:
    """The declared suite.

    Raises:
      InputError: on a field, source or baseline that there is not.
    """
    tables = tomllib.loads(path.read_text())
    sources = tables.pop("sources")
    groups: dict[str, Group] = {}
    experiments: dict[str, Experiment] = {}
    for group_name, table in tables.items():
        members = table.pop("experiments")
        own = {key: table.pop(key) for key in Group._fields if key in table}
        groups[group_name] = group = Group(
            name=group_name, experiments=tuple(members), **{k: _line(v) for k, v in own.items()}
        )
        shared = table
        if group.baseline is not None:
            base = _known(group.baseline, experiments, f"baseline of {group_name}")
            inherited = "algo", "env", "total_steps", "seeds", "config", "run", "gpu"
            shared = {key: getattr(base, key) for key in inherited} | table
        for name, said in members.items():
            if name in {**experiments, **tables}:
                raise InputError(f"the name {name!r} is given twice.")
            experiments[name] = _experiment(name, shared, said, sources)
    return Suite(groups, experiments)


def _experiment(
    name: str, shared: dict[str, Any], said: dict[str, Any], sources: dict[str, str]
) -> Experiment:
    fields = {**shared, **said}
    for key in fields:
        _known(key, Experiment._fields, f"field of {name}")
    for key in ("config", "run"):
        fields[key] = {**shared.get(key, {}), **said.get(key, {})}
    published = [
        Published(**{**row, "source": _known(row["source"], sources, f"source of {name}")})
        for row in fields.pop("published", ())
    ]
    return Experiment(name=name, published=tuple(published), **fields)


def _line(text: str) -> str:
    return " ".join(text.split())


def _known(name: str, names: Any, what: str) -> Any:
    """`name` in `names`, or its value where that is a mapping."""
    if name not in names:
        hint = nearest(name, names) or f"; there are {', '.join(names)}."
        raise InputError(f"the {what} is {name!r}, which there is not{hint}")
    return names[name] if isinstance(names, dict) else name


def chosen(
    suite: Suite, names: Sequence[str], missing: bool, on_gpu: bool, results: Path = RESULTS
) -> list[Experiment]:
    """The experiments to run, in the suite's order.

    Args:
      suite: all there are.
      names: of experiments or groups; none for all that need no GPU, or have one.
      missing: leave out those with a result.
      on_gpu: whether there is one.
      results: where results are.

    Raises:
      InputError: on a name that there is not.
    """
    wanted: set[str] = set()
    for name in names:
        names_there = [*suite.groups, *suite.experiments]
        if name not in names_there:
            hint = nearest(name, names_there) or f"; the groups are {', '.join(suite.groups)}."
            raise InputError(f"there is no experiment or group {name!r}{hint}")
        wanted.update(suite.groups[name].experiments if name in suite.groups else [name])
    return [
        experiment
        for name, experiment in suite.experiments.items()
        if (name in wanted or (not names and (on_gpu or not experiment.gpu)))
        and not (missing and result_of(experiment, results) is not None)
    ]


def programs(experiments: Iterable[Experiment]) -> list[Program]:
    """Experiments that can share a program in one, each at the place of its first.

    They can where they differ in nothing but floats of their configurations.
    """
    alike: dict[str, list[Experiment]] = {}
    for experiment in experiments:
        config = to_json(experiment.configuration())
        shape = {name: "float" if isinstance(x, float) else x for name, x in config.items()}
        same = experiment.algo, experiment.env, experiment.seeds, experiment.run, shape
        alike.setdefault(json.dumps(same), []).append(experiment)
    return [Program(tuple(some)) for some in alike.values()]


def run(program: Program, folder: Path, reports: int = 20) -> int:
    """Runs a program in `folder`, or what is left of it; returns the exit code.

    Raises:
      InputError: where the folder holds a finished run of other settings.
    """
    words = [*program.words(reports), "--out", str(folder)]
    if not (folder / "config.json").exists():
        return rlax_lab(words)
    if not (folder / "summary.json").exists():
        return rlax_lab([*words, "--resume"])
    found = trained(folder)
    made = len(found) == len(program.experiments) and all(
        map(Experiment.made, program.experiments, found)
    )
    if not made:
        raise InputError(
            f"{folder} holds a run that is not {program.name} as curves.toml has it; remove it, or "
            "give another --work."
        )
    return 0


def trained(folder: Path) -> list[dict[str, Any]]:
    """The summary of a finished run, or those of the trials of a sweep as if each had been one.

    Of these the clock is that of all `trials`.
    """
    summary = json.loads((folder / "summary.json").read_text())
    settings = summary.pop("settings", None)
    if settings is None:
        return [summary]
    for name in ("best", "method"):
        del summary[name]
    return [
        {
            **summary,
            "trial": setting["trial"],
            "final_return": setting["final_return"],
            "config": summary["config"] | setting["values"],
        }
        for setting in settings
    ]


def keep(program: Program, folder: Path, results: Path = RESULTS) -> list[str]:
    """Saves what the finished program in `folder` found; returns the names of what diverged."""
    command = " ".join(["rlax-lab", *program.words()])
    diverged = []
    for experiment, summary in zip(program.experiments, trained(folder), strict=True):
        if "trial" in summary and None in summary["final_return"]["per_seed"]:
            diverged.append(experiment.name)
            continue
        curve = read_curve(folder, summary.get("trial"))
        np.savez_compressed(
            results / f"{experiment.name}.npz",
            steps=curve.steps,
            returns=curve.returns,
            episode_returns=curve.episode_returns,
            episodes=curve.episodes,
        )
        solved = {"steps_to_threshold": reached(curve.steps, curve.returns, curve.threshold)}
        result = {"command": command, **summary, **solved}
        write_json(results / f"{experiment.name}.json", result)
    return diverged


def result_of(experiment: Experiment, results: Path = RESULTS) -> dict[str, Any] | None:
    """The saved result; None if there is none of the experiment as it is declared now."""
    path = results / f"{experiment.name}.json"
    result: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return result if experiment.made(result) else None


def curve_of(experiment: Experiment, results: Path = RESULTS, label: str = "") -> Curve | None:
    """The saved curve, by its own name or another; None where no curve was kept."""
    path = results / f"{experiment.name}.npz"
    if result_of(experiment, results) is None or not path.exists():
        return None
    return read_result(path, label)


def variants(suite: Suite, group: Group) -> list[tuple[str, Experiment]]:
    """An ablation's experiments with their labels, the baseline first."""
    assert group.baseline is not None
    rows = [(suite.experiments[name].label, suite.experiments[name]) for name in group.experiments]
    return [(group.baseline_label, suite.experiments[group.baseline]), *rows]


def pictures(suite: Suite, names: Iterable[str], results: Path = RESULTS) -> None:
    """Draws the curve of every experiment in these groups, and the curves of an ablation in one."""
    for name in names:
        group = suite.groups[name]
        if name == TOGETHER:
            sets = profiles.collect(last_returns(suite, group, results))
            if sets:
                profiles.draw(sets, results / "profiles.png")
        if group.baseline is None:
            for member in group.experiments:
                if curve := curve_of(suite.experiments[member], results):
                    draw([curve], results / f"{member}.png")
        else:
            found = [curve_of(e, results, label) for label, e in variants(suite, group)]
            curves = [curve for curve in found if curve is not None]
            if len(curves) > 1:
                draw(curves, results / f"{name}.png")


HEAD = """\
# Results

`python benchmarks/curves.py --table` makes this page from the files in `benchmarks/results`, and
`make curves` (`python benchmarks/curves.py [NAME ...]`) makes those: `benchmarks/curves.toml` says
what is run, `NAME.json` what came of it, with its command, configuration, hardware, versions and
commit, and `NAME.npz` holds the returns of every seed at every report. Experiments that differ in
nothing but floats of their configurations train in one program; each is then the run that it would
be alone, but for the rounding of larger batches. The clock in their files is that of all `trials`.

Returns are those of the greedy policy, one number per seed: the mean of its evaluation episodes
after the whole budget. IQM is the interquartile mean over seeds, with its 95 % bootstrap interval.
The verdict on a published number is **reproduced** where that interval holds it, and **above** or
**below** where all of the interval is. A published number keeps its own protocol, which stands
beside it; its environments are Gym's, ours are gymnax's. Settings were chosen by short runs of a
few seeds on the same task, of the same numbers as here, so results lean a little in their favour.

An ablation compares the return over the whole run, the mean of all its evaluations, which says how
fast a variant learnt: better or worse than the first row where the intervals are apart. Its verdict
is on what was published of the variant, mostly on other tasks."""


def report(suite: Suite, results: Path = RESULTS) -> str:
    """RESULTS.md, from the result files."""
    parts = [HEAD]
    for group in suite.groups.values():
        section = _comparison if group.baseline is None else _ablation
        parts += [f"## {group.title}", group.about, *section(suite, group, results)]
        if group.name == TOGETHER:
            parts += _together(last_returns(suite, group, results))
    parts += _asynchrony(results)
    return "\n\n".join(parts) + "\n"


def _comparison(suite: Suite, group: Group, results: Path) -> list[str]:
    """A table of experiments beside what was published, and notes to it."""
    lines, notes = [], []
    for experiment in (suite.experiments[name] for name in group.experiments):
        found = result_of(experiment, results)
        cells = [
            f"{experiment.algo}, {experiment.env}<br>`{experiment.name}`",
            count(experiment.total_steps),
            str(experiment.seeds),
        ]
        if found is None:
            cells += [_waiting(experiment), "", "", _published(experiment), "", ""]
        else:
            final = found["final_return"]
            cells += [
                _interval(final),
                f"{final['mean']:.1f}",
                f"{min(value for value in final['per_seed'] if value is not None):.1f}",
                _published(experiment),
                "<br>".join(
                    verdict(final["ci95"], found["env_steps"], row) for row in experiment.published
                ),
                f'<img src="benchmarks/results/{experiment.name}.png" width="240">',
            ]
        lines.append(cells)
        if experiment.note:
            notes.append(f"- `{experiment.name}`: {experiment.note}")
    head = (
        "experiment",
        "steps",
        "seeds",
        "IQM [95 %]",
        "mean",
        "worst seed",
        "published",
        "verdict",
    )
    return [_markdown((*head, "curve"), lines), *(["\n".join(notes)] if notes else [])]


def _ablation(suite: Suite, group: Group, results: Path) -> list[str]:
    """A figure, a table of variants beside their baseline, and notes to it."""
    lines, notes, first, shown = [], [], None, 0
    rows = variants(suite, group)
    for label, experiment in rows:
        found, curve = result_of(experiment, results), curve_of(experiment, results)
        if found is None or curve is None:
            lines.append([label, _waiting(experiment), "", "", "", experiment.expected, ""])
        else:
            whole = summarize(np.nanmean(curve.returns, axis=0))
            cells = [label, _interval(found["final_return"]), _interval(whole), _solved(found)]
            if first is None:
                cells += ["", "", ""]
            else:
                seen = beside(whole["ci95"], first["ci95"])
                cells += [seen, experiment.expected, agreement(seen, experiment.expected)]
            first = first or whole
            shown += 1
            lines.append(cells)
        if experiment.note and experiment.name != group.baseline:
            notes.append(f"- {label}: {experiment.note}")
    base = rows[0][1]
    head = "variant", "IQM at the end [95 %]", "IQM of the whole run", "solved", "beside the first"
    return [
        f"`{base.name}` and variants: {base.algo} on {base.env}, {count(base.total_steps)} steps, "
        f"{base.seeds} seeds.",
        *([f"![{group.title}](benchmarks/results/{group.name}.png)"] if shown > 1 else []),
        _markdown((*head, "published", "verdict"), lines),
        *(["\n".join(notes)] if notes else []),
    ]


def last_returns(
    suite: Suite, group: Group, results: Path = RESULTS
) -> dict[tuple[str, str], list[float]]:
    """Every seed's last return by learner and task, of the first experiment with a result."""
    found: dict[tuple[str, str], list[float]] = {}
    for experiment in (suite.experiments[name] for name in group.experiments):
        if result := result_of(experiment, results):
            task = experiment.algo, experiment.env
            found.setdefault(task, result["final_return"]["per_seed"])
    return found


def _together(returns: dict[tuple[str, str], list[float]]) -> list[str]:
    """The learners' scores over all tasks of a group."""
    parts = []
    head = "learner", "IQM", "median", "optimality gap", "better than the first"
    for title, learners in profiles.collect(returns).items():
        parts += [f"On {title}:", _markdown(head, profiles.rows(learners))]
    picture = "![Performance profiles](benchmarks/results/profiles.png)"
    return ["### All tasks together", ALL_TASKS, picture, *parts] if parts else []


ALL_TASKS = """\
A score is 0 at the mean return of random actions and 1 at the best run that the SB3 zoo published
for the task, whichever its learner and budget. Each learner's budgets are those of the first row of
each task above, and differ between learners: this says how good and how sure the settings of the
suite are, not which learner is the fastest. In brackets are 95 % intervals of a bootstrap that
resamples the seeds of each task (Agarwal et al. 2021); the last column is the probability that a
run of the learner scores above one of the first on the same task."""


def _asynchrony(results: Path) -> list[str]:
    """What `asynchrony.py` found: A3C's workers beside as many A2C gradient steps."""
    path = results / "asynchrony.json"
    if not path.exists():
        return []
    rows = json.loads(path.read_text())["rows"]
    kinds = list(dict.fromkeys(name.split("_")[2] for name in rows if name.startswith("a3c")))
    lines = []
    for workers in sorted({int(name.split("_")[1]) for name in rows if name.startswith("a3c")}):
        control = rows[f"a2c_{16 // workers}"]["mean_return_over_run"]
        cells = [str(workers), _interval(control)]
        for kind in kinds:
            row = rows.get(f"a3c_{workers}_{kind}")
            if row is None:
                cells.append("")
                continue
            seen = row["mean_return_over_run"]
            cells.append(f"{_interval(seen)}<br>{beside(seen['ci95'], control['ci95'])}")
        lines.append(cells)
    head = ["W", "A2C, 16 / W environments", *(f"A3C, {kind} delays" for kind in kinds)]
    return [
        "## A3C's workers against A2C",
        ASYNCHRONY,
        "![A3C over workers and delays](benchmarks/results/asynchrony.png)",
        _markdown(head, lines),
    ]


ASYNCHRONY = """\
`python benchmarks/asynchrony.py`: A3C on CartPole-v1 with W workers of 16 / W environments each,
100k steps, 10 seeds, each setting at the best of four learning rates. IQM of the return over the
whole run, beside A2C with the same number of gradient steps on the same number of samples without
staleness. Up to 8 workers the intervals overlap: what the further gradient steps bring, being 7
gradients behind does not take away. With 16 workers of one environment each all are worse, the
synchronous control too: it is the small batch, more than the staleness, that hurts. Mean staleness
is W - 1 whatever the delays; how it is spread is what they change. (For W up to 4 the best rate is
the highest tried, 5e-3.)"""


def verdict(interval: Sequence[float], steps: int, published: Published) -> str:
    """How an interval of ours, found after `steps`, stands to a published number."""
    low, high = interval
    value = published.value
    word = "above" if low > value else "below" if high < value else "reproduced"
    share = steps / published.steps
    return f"**{word}**" if 0.95 < share < 1.05 else f"**{word}** in {share:.2g} of the steps"


def beside(interval: Sequence[float], other: Sequence[float]) -> str:
    """Which of two intervals is higher, where they are apart."""
    if interval[0] > other[1]:
        return "better"
    return "worse" if interval[1] < other[0] else OVERLAP


def agreement(seen: str, expected: str) -> str:
    """How what `beside` says of a variant stands to what was published of it."""
    if not expected:
        return ""
    if seen == expected:
        return "**reproduced**"
    return "not seen" if seen == OVERLAP else "**the opposite**"


def _published(experiment: Experiment) -> str:
    if not experiment.published:
        return "none known at a stated budget"
    return "<br>".join(
        f"{row.algo + ': ' if row.algo else ''}{row.value:g} at {count(row.steps)} ({row.source})"
        for row in experiment.published
    )


def _waiting(experiment: Experiment) -> str:
    return "waits for a GPU" if experiment.gpu else "not run yet"


def _interval(summary: Any) -> str:
    low, high = summary["ci95"]
    return f"{summary['iqm']:.1f} [{low:.1f}, {high:.1f}]"


def _solved(found: dict[str, Any]) -> str:
    """How many seeds reached the threshold, and the median of when."""
    reached = [steps for steps in found["steps_to_threshold"]["per_seed"] if steps is not None]
    if found["steps_to_threshold"]["threshold"] is None:
        return "no threshold"
    when = f", median {count(float(np.median(reached)))} steps" if reached else ""
    return f"{len(reached)} of {found['seeds']} seeds{when}"


def _markdown(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def publish(
    suite: Suite, names: Iterable[str], results: Path = RESULTS, table: Path = TABLE
) -> None:
    """Makes the pictures of these groups, and the whole table, from the saved results."""
    pictures(suite, names, results)
    table.write_text(report(suite, results))


def run_all(
    suite: Suite,
    experiments: Sequence[Experiment],
    work: Path,
    results: Path = RESULTS,
    table: Path = TABLE,
) -> int:
    """Runs the programs of experiments in turn, each saved and shown as it ends; returns the exit
    code."""
    diverged = []
    queue = programs(experiments)
    for index, program in enumerate(queue):
        names = [experiment.name for experiment in program.experiments]
        print(f"{index + 1} of {len(queue)}: {', '.join(names)}", flush=True)
        code = run(program, work / program.name)
        if code == 1:  # which is a finding, and no reason to leave out the others
            diverged += names
        elif code:
            return code
        else:
            diverged += keep(program, work / program.name, results)
            shown = [
                group.name
                for group in suite.groups.values()
                if not {*group.experiments, group.baseline}.isdisjoint(names)
            ]
            publish(suite, shown, results, table)
        left = seconds(suite, [e for p in queue[index + 1 :] for e in p.experiments], results)
        print(f"About {duration(left)} left for the other experiments.", flush=True)
    if diverged:
        print(f"These diverged: {', '.join(diverged)}.", file=sys.stderr)
    return int(bool(diverged))


def seconds(suite: Suite, experiments: Iterable[Experiment], results: Path = RESULTS) -> float:
    """How long experiments may take, by saved results of the same algorithm, best on the same task.

    Those of an algorithm without any result count nothing.
    """
    total = 0.0
    for experiment in experiments:
        alike = [e for e in suite.experiments.values() if e.algo == experiment.algo]
        paces: dict[str, list[float]] = {}
        for other in alike:
            if found := result_of(other, results):
                work = found["env_steps"] * found["seeds"] * found.get("trials", 1)
                pace = found["wall_seconds"] / work
                paces.setdefault(other.env, []).append(pace)
        known = paces.get(experiment.env) or [x for xs in paces.values() for x in xs] or [0.0]
        total += float(np.median(known)) * experiment.total_steps * experiment.seeds
    return total


def main() -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="experiments or groups")
    parser.add_argument("--missing", action="store_true", help="leave out those with a result")
    parser.add_argument("--table", action="store_true", help="pictures and RESULTS.md, no training")
    parser.add_argument("--work", type=Path, default=Path("runs/curves"), help="for run folders")
    parser.add_argument("--results", type=Path, help="for the results and the table")
    arguments = parser.parse_args()
    suite = load()
    elsewhere = arguments.results
    places = (elsewhere, elsewhere / TABLE.name) if elsewhere else (RESULTS, TABLE)
    if arguments.table:
        publish(suite, suite.groups, *places)
        return 0
    import jax

    use_all_cores()  # before JAX looks for its devices
    on_gpu = jax.default_backend() == "gpu"
    try:
        experiments = chosen(suite, arguments.names, arguments.missing, on_gpu, places[0])
        return run_all(suite, experiments, arguments.work, *places)
    except InputError as error:
        parser.error(str(error))


if __name__ == "__main__":
    sys.exit(main())
