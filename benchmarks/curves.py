"""The curves and tables that papers show, from one command.

    python benchmarks/curves.py [NAME ...] [--missing] [--work FOLDER]

runs the experiments and groups of ``curves.toml`` that are named, or all of them, one after the
other through the command line. Each has a run folder in ``runs/curves``, so that the same command
goes on after an interruption, and skips what is done there. What a run found goes to
``benchmarks/results``: ``NAME.json`` (stamped), ``NAME.npz`` (every seed's returns) and a picture.

    python benchmarks/curves.py --table

makes the pictures and RESULTS.md anew from those files, without training.
"""

import argparse
import json
import sys
import time
import tomllib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rlax_lab.cli import main as rlax_lab
from rlax_lab.errors import InputError, nearest
from rlax_lab.plots import Curve, draw, read_curve
from rlax_lab.progress import duration

HERE = Path(__file__).parent
SUITE = HERE / "curves.toml"
RESULTS = HERE / "results"
TABLE = HERE.parent / "RESULTS.md"


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

    def made(self, result: dict[str, Any]) -> bool:
        """Whether `result` is of this experiment as it is declared now."""
        asked = {"algo": self.algo, "env": self.env, "seeds": self.seeds}
        config = {"total_steps": self.total_steps, **self.config}
        found = result.get("config", {})
        return all(result.get(k) == v for k, v in asked.items()) and all(
            found.get(k) == (None if v == "none" else v) for k, v in config.items()
        )


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


def chosen(suite: Suite, names: Sequence[str], missing: bool, on_gpu: bool) -> list[Experiment]:
    """The experiments to run, in the suite's order.

    Args:
      suite: all there are.
      names: of experiments or groups; none for all that need no GPU, or have one.
      missing: leave out those with a result.
      on_gpu: whether there is one.

    Raises:
      InputError: on a name that there is not.
    """
    wanted: set[str] = set()
    for name in names:
        _known(name, [*suite.groups, *suite.experiments], "experiment or group")
        wanted.update(suite.groups[name].experiments if name in suite.groups else [name])
    return [
        experiment
        for name, experiment in suite.experiments.items()
        if (name in wanted or (not names and (on_gpu or not experiment.gpu)))
        and not (missing and result_of(experiment) is not None)
    ]


def run(experiment: Experiment, folder: Path, reports: int = 20) -> int:
    """Runs an experiment in `folder`, or what is left of it; returns the exit code."""
    if _summary(experiment, folder) is not None:
        return 0
    words = [*experiment.words(reports), "--out", str(folder)]
    return rlax_lab([*words, "--resume"] if (folder / "config.json").exists() else words)


def _summary(experiment: Experiment, folder: Path) -> dict[str, Any] | None:
    """What a finished run of the experiment as it is declared now found."""
    path = folder / "summary.json"
    summary: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return summary if experiment.made(summary) else None


def keep(experiment: Experiment, folder: Path, results: Path = RESULTS) -> None:
    """Saves what the finished run in `folder` found."""
    summary = _summary(experiment, folder)
    assert summary is not None
    curve = read_curve(folder)
    np.savez_compressed(
        results / f"{experiment.name}.npz",
        steps=curve.steps,
        returns=curve.returns,
        episode_returns=curve.episode_returns,
    )
    command = " ".join(["rlax-lab", *experiment.words()])
    result = {"command": command, **summary}
    (results / f"{experiment.name}.json").write_text(json.dumps(result, indent=2) + "\n")


def result_of(experiment: Experiment, results: Path = RESULTS) -> dict[str, Any] | None:
    """The saved result; None if there is none of the experiment as it is declared now."""
    path = results / f"{experiment.name}.json"
    result: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return result if experiment.made(result) else None


def curve_of(experiment: Experiment, label: str, results: Path = RESULTS) -> Curve | None:
    """The saved curve, under a label; None where only a summary was kept."""
    result, path = result_of(experiment, results), results / f"{experiment.name}.npz"
    if result is None or not path.exists():
        return None
    with np.load(path) as arrays:
        return Curve(
            label=label,
            threshold=result["steps_to_threshold"]["threshold"],
            env=experiment.env,
            algo=experiment.algo,
            evaluated=True,
            **arrays,
        )


def pictures(suite: Suite, groups: Iterable[str], results: Path = RESULTS) -> None:
    """Draws the curves of every experiment in these groups, and one figure of each ablation."""
    for name in groups:
        group = suite.groups[name]
        for member in group.experiments:
            curve = curve_of(suite.experiments[member], member, results)
            if curve is not None and group.baseline is None:
                draw([curve], results / f"{member}.png")
        if group.baseline is not None:
            found = [curve_of(e, label, results) for label, e in variants(suite, group)]
            if curves := [curve for curve in found if curve is not None]:
                draw(curves, results / f"{name}.png")


def variants(suite: Suite, group: Group) -> list[tuple[str, Experiment]]:
    """An ablation's experiments with their labels, the baseline first."""
    assert group.baseline is not None
    rows = [(suite.experiments[name].label, suite.experiments[name]) for name in group.experiments]
    return [(group.baseline_label, suite.experiments[group.baseline]), *rows]


def main() -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="experiments or groups")
    parser.add_argument("--missing", action="store_true", help="leave out those with a result")
    parser.add_argument("--table", action="store_true", help="pictures and RESULTS.md, no training")
    parser.add_argument("--work", type=Path, default=Path("runs/curves"), help="for run folders")
    arguments = parser.parse_args()
    suite = load()
    if arguments.table:
        pictures(suite, suite.groups)
        return 0
    import jax

    on_gpu = jax.default_backend() == "gpu"
    try:
        experiments = chosen(suite, arguments.names, arguments.missing, on_gpu)
    except InputError as error:
        parser.error(str(error))
    return run_all(suite, experiments, arguments.work)


def run_all(suite: Suite, experiments: Sequence[Experiment], work: Path) -> int:
    """Runs experiments in turn, saving each as it ends; returns the exit code."""
    began, done, failed = time.perf_counter(), 0, []
    for index, experiment in enumerate(experiments):
        left = (
            "" if not done else f", about {duration(_left(began, done, experiments[index:]))} left"
        )
        print(f"\n{index + 1} of {len(experiments)}: {experiment.name}{left}", flush=True)
        folder = work / experiment.name
        code = run(experiment, folder)
        if code == 1:  # diverged, which is no reason to leave out the others
            failed.append(experiment.name)
        elif code:
            return code
        else:
            keep(experiment, folder)
        done += experiment.total_steps * experiment.seeds
        of = [
            g.name for g in suite.groups.values() if experiment.name in (*g.experiments, g.baseline)
        ]
        pictures(suite, of)
    if failed:
        print(f"Diverged: {', '.join(failed)}.", file=sys.stderr)
    return int(bool(failed))


def _left(began: float, done: int, ahead: Sequence[Experiment]) -> float:
    """Seconds for what is ahead, at the speed so far in environment steps of all seeds."""
    steps = sum(experiment.total_steps * experiment.seeds for experiment in ahead)
    return (time.perf_counter() - began) / done * steps


if __name__ == "__main__":
    sys.exit(main())
