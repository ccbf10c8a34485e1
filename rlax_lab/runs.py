"""A run and its folder: from configuration to curve, stoppable at any moment.

The folder holds ``config.json`` (what was asked for), ``metrics.jsonl`` (one line per report and
seed; nothing in it depends on the clock, so equal runs give equal files), TensorBoard events,
``checkpoints/``, and at the end ``curve.png`` and ``summary.json``.
"""

import json
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from rlax_lab import (
    checkpoint,
    metrics,
    population,
    progress,
    provenance,
    shards,
    signals,
    statistics,
    train,
)
from rlax_lab.config import check, configuration, setting, to_json
from rlax_lab.errors import InputError, NonFiniteError
from rlax_lab.evaluate import evaluate
from rlax_lab.types import Environment, Learner, PyTree


@configuration
class Settings:
    """How a run is conducted, whatever the algorithm."""

    seeds: int = setting(1, "how many seeds to train side by side", low=1)
    seed: int = setting(0, "the first seed; the others count up from it", low=0, high=2**31 - 1)
    reports: int = setting(
        50, "how many times to evaluate and report; a run can stop and resume between them", low=1
    )
    eval_episodes: int = setting(64, "episodes per seed in every evaluation", low=1)
    checkpoint_seconds: float = setting(
        10.0, "save at the first report after this many seconds", low=0
    )
    parts: int = setting(
        1, "equal parts that the environments of a seed are in; a device takes one or more", low=1
    )
    devices: int | None = setting(
        None,
        "devices to use, the seeds and the parts dealt equally to them; none for as many as can be",
        low=1,
    )


# Whose a line of metrics is: a seed's, and of many trials that of one.
PLACE = ("seed", "trial")

# What may differ when a run resumes.
NOT_RECORDED = ("checkpoint_seconds", "devices")


class Task(NamedTuple):
    """What is trained on what, with the names that the folder records.

    Attributes:
      assess: ``assess(params) -> mean return`` in every evaluation, in place of episodes of `env`.
    """

    algo: str
    env_name: str
    env: Environment
    env_params: Any
    threshold: float | None
    config: Any
    learner: Learner
    assess: Callable[[PyTree], jax.Array] | None = None


class Stopped(Exception):
    """The run was asked to stop, by signal number `args[0]`, and saved itself after `args[1]` steps
    of each seed."""


class Outcome(NamedTuple):
    """What a finished run is summarised from.

    Attributes:
      record: as ``config.json`` has it.
      clock: seconds spent, by what on.
      assess: ``assess(update) -> mean returns [S]`` of the final policies, or ``[S, T]`` of T
        members, in the evaluation's episodes of that update; no report's are those of update 0.
    """

    record: dict[str, Any]
    clock: dict[str, float]
    assess: Callable[[int], np.ndarray]


def run(task: Task, settings: Settings, folder: Path, resume: bool = False) -> dict[str, Any]:
    """`conduct`, and a summary and a picture; returns what ``summary.json`` holds.

    Of several processes (`jax.distributed`) each calls it; the first writes, the others return {}.

    Arguments and errors as of `conduct`.
    """
    outcome = conduct(task, settings, folder, resume)
    # Of several processes that share a run, the first does all that leaves a trace.
    if jax.process_index() > 0:
        return {}
    summary = _summary(outcome.record, folder, outcome.clock)
    checkpoint.write_json(folder / "summary.json", summary)
    from rlax_lab import plots  # matplotlib is slow to import

    plots.learning_curves([folder], folder / "curve.png")
    progress.summary(summary, folder)
    return summary


def conduct(task: Task, settings: Settings, folder: Path, resume: bool = False) -> Outcome:
    """Trains, evaluates and saves.

    Args:
      task: what to train.
      settings: seeds, reports, checkpoints.
      folder: where the run lives; must be new or empty unless `resume`.
      resume: continue the run in `folder` from its newest whole checkpoint.

    Raises:
      InputError: on a folder that holds something else, or another run to resume; of several
        processes in all of them.
      NonFiniteError: when training diverged; the last good checkpoint is kept.
      Stopped: after Ctrl-C or SIGTERM, with the run saved.
    """
    began = time.perf_counter()
    check(settings)
    record = _record(task, settings)
    shards.together(lambda: _check_folder(folder, record, resume), (record, settings.devices))
    mesh = shards.deal(settings.seeds, settings.parts, settings.devices)
    programs = _programs(task, settings, mesh, resume)
    done, states, clock = (
        _load(task, settings, folder) if resume else _begin(task, settings, folder, programs)
    )
    if not resume:
        checkpoint.write_json(folder / "config.json", record)
    # Under the same name, or a replay buffer would stay where it was put first as well.
    states = shards.place(states, mesh, task.learner)
    clock["compile"] += programs.seconds
    clock["wall"] += time.perf_counter() - began
    members = task.learner.members
    each = f"{members} trials x {settings.seeds} seeds" if members else f"{settings.seeds} seeds"
    shown = progress.Progress(task.learner.total_steps, each)

    def announce() -> None:
        left = shown.until_report()
        when = "" if left is None else f", in about {progress.duration(left)}"
        shown.say(
            f"Stopping at the next report{when}; a second time stops at once, and --resume then "
            "goes on from the last checkpoint."
        )

    with shown, signals.stop_on_signals(announce) as stop:
        verb = "Resuming" if resume else "Training"
        on = f" on {mesh.size} devices" if mesh else ""
        shown.say(f"{verb} {task.algo} on {task.env_name}{on} in {folder}")
        states = _conduct(task, settings, folder, mesh, programs, done, states, clock, shown, stop)
    keys = shards.place(train.seed_keys(settings.seed, settings.seeds), mesh)

    def assess(update: int) -> np.ndarray:
        return checkpoint.to_numpy(programs.assess(states.params, keys, jnp.int32(update)))

    return Outcome(record, clock, assess)


class _Programs(NamedTuple):
    """What a run consists of, compiled; `seconds` is what that took.

    Attributes:
      init: ``init(keys [S]) -> states [S]``; None where the run resumes.
      chunk: as `train.advance`.
      assess: ``assess(params [S], keys [S], update) -> mean returns [S]``, always the same; of T
        members ``[S, T]``.
    """

    init: Any
    chunk: Any
    assess: Any
    seconds: float


def _programs(task: Task, settings: Settings, mesh: Mesh | None, resume: bool) -> _Programs:
    """The programs of a run, and how long it took to compile them."""
    began = time.perf_counter()
    keys = train.seed_keys(settings.seed, settings.seeds)
    with ThreadPoolExecutor() as pool:
        init, chunk, states = train.compiling(pool, task.learner, keys, mesh, begins=not resume)
        own = shards.placed(jax.eval_shape(lambda: keys), mesh)
        assess = _evaluator(task, settings, mesh).lower(states.params, own, jnp.int32(0)).compile()
        return _Programs(
            init and init.result(), chunk.result(), assess, time.perf_counter() - began
        )


def _begin(
    task: Task, settings: Settings, folder: Path, programs: _Programs
) -> tuple[int, PyTree, dict[str, float]]:
    """A new run, saved before its first update."""
    states = programs.init(train.seed_keys(settings.seed, settings.seeds))
    clock = {"train": 0.0, "compile": 0.0, "wall": 0.0}
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder} cannot be made: {error.strerror}.") from error
    checkpoint.save(folder / "checkpoints", 0, states, clock)
    return 0, states, clock


def _load(task: Task, settings: Settings, folder: Path) -> tuple[int, PyTree, dict[str, float]]:
    """A run as its newest whole checkpoint has it, and its metrics cut back to there."""
    shapes = _shapes(task, settings.seeds)
    done, states, clock = checkpoint.restore(folder / "checkpoints", shapes)
    if jax.process_index() == 0:
        _keep_until(folder / "metrics.jsonl", done)
    return done, states, clock


def _conduct(
    task: Task,
    settings: Settings,
    folder: Path,
    mesh: Mesh | None,
    programs: _Programs,
    done: int,
    states: PyTree,
    clock: dict[str, float],
    shown: progress.Progress,
    stop: signals.StopRequest,
) -> PyTree:
    """Trains from update `done` to the end, reporting and saving on the way; the final states."""
    learner = task.learner
    updates = learner.num_updates
    if done == updates:
        return states
    keys = shards.place(train.seed_keys(settings.seed, settings.seeds), mesh)
    last = loop_began = saved_at = time.perf_counter()
    saved = done
    chunks = train.train(
        learner,
        states,
        done=done,
        reports=settings.reports,
        first_seed=settings.seed,
        chunk=programs.chunk,
    )
    with _Log(folder, learner.steps_after(done) if done else 0) as log:
        try:
            for states, report in chunks:
                clock["train"] += report.seconds
                returns = programs.assess(states.params, keys, jnp.int32(report.update))
                lines = _lines(report, returns, states.labels if learner.members else {})
                speed = report.env_steps * len(lines) / clock["train"]
                log.write(lines, speed)
                now = time.perf_counter()
                clock["wall"] += now - last
                last = now
                pace = (now - loop_began) / (report.update - done)
                shown.report(
                    report.env_steps,
                    speed,
                    pace * (updates - report.update),
                    [line["episode_return"] for line in lines],
                    [line["eval_return"] for line in lines],
                    population.leader(lines, states.values) if learner.members else "",
                )
                finished = report.update == updates
                due = now - saved_at >= settings.checkpoint_seconds
                due, signal = shards.agree((due, stop.signal or 0))
                if finished or signal or due:
                    checkpoint.save(folder / "checkpoints", report.update, states, clock)
                    saved, saved_at = report.update, now
                if signal and not finished:
                    raise Stopped(signal, report.env_steps)
        except NonFiniteError as error:
            raise NonFiniteError(
                f"{error}; the last good checkpoint, after update {saved}, is kept in {folder}."
            ) from None
    return states


def load_params(task: Task, folder: Path, seeds: int) -> tuple[int, PyTree]:
    """After how many updates a run was last saved, and its parameters then ``[seeds, ...]``.

    Raises:
      InputError: if the folder has no whole checkpoint.
    """
    update, states, _ = checkpoint.restore(folder / "checkpoints", _shapes(task, seeds))
    return update, states.params


def load_network(folder: Path) -> tuple[int, PyTree]:
    """After how many updates a run was last saved, and its weights then ``[seeds, ...]``, whatever
    it was trained on.

    Raises:
      InputError: if the folder has no whole checkpoint.
    """
    update, states, _ = checkpoint.restore(folder / "checkpoints")
    return update, states["params"]["network"]


def _shapes(task: Task, seeds: int) -> PyTree:
    """The abstract states ``[seeds, ...]`` that a checkpoint of `task` holds."""
    return jax.eval_shape(jax.vmap(task.learner.init), train.seed_keys(0, seeds))


def read_record(folder: Path, sweep: bool = False) -> dict[str, Any]:
    """What ``config.json`` says of a run, or of a `sweep`.

    Raises:
      InputError: if there is none in `folder`.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise InputError(f"{folder} holds no run: it has no config.json.")
    try:
        record = json.loads(path.read_text())
    except ValueError as error:
        raise InputError(f"{path} is damaged: {error}.") from error
    names = {"algo": str, "env": str, "seeds": int, "seed": int, "parts": int, "config": dict}
    there = record if isinstance(record, dict) else {}
    lacks = [name for name, kind in names.items() if not isinstance(there.get(name), kind)]
    if lacks:
        raise InputError(f"{path} is not the record of a run: it lacks {', '.join(lacks)}.")
    if sweep != ("trials" in there):
        held, wanted = ("one run", "a sweep") if sweep else ("a sweep", "one run")
        raise InputError(f"{folder} holds {held}, not {wanted}.")
    return there


def _record(task: Task, settings: Settings) -> dict[str, Any]:
    kept = {k: v for k, v in to_json(settings).items() if k not in NOT_RECORDED}
    return {
        "algo": task.algo,
        "env": task.env_name,
        "threshold": task.threshold,
        **kept,
        "config": to_json(task.config),
    }


def check_place(folder: Path, resume: bool) -> None:
    """Raises InputError where `folder` is a file, or must be new to a run and is not."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file; a run needs a folder.")
    if resume:
        return
    # A run that was killed before its config.json was written left its first checkpoint only.
    others = [p for p in folder.iterdir() if not _left_by_a_kill(p)] if folder.is_dir() else []
    if others:
        what = "another run" if (folder / "config.json").exists() else "other files"
        raise InputError(
            f"{folder} holds {what}; give another --out, or --resume to go on with a run."
        )


def _check_folder(folder: Path, record: dict[str, Any], resume: bool) -> None:
    check_place(folder, resume)
    if not resume:
        return
    before = read_record(folder, sweep="trials" in record)
    flat, flat_before = ({**r, **r.get("config", {})} for r in (record, before))
    for name in [*record, *record["config"]]:  # the environment before its threshold
        if name not in flat_before:
            raise InputError(
                f"{folder} was started by another version, without the setting {name}; a run "
                "resumes only in the version that it was started with."
            )
        if name != "config" and flat[name] != flat_before[name]:
            raise InputError(
                f"{folder} was started with {name} {flat_before[name]!r}, not {flat[name]!r}; "
                "a run resumes only under its own configuration."
            )


def _left_by_a_kill(path: Path) -> bool:
    if path.name == "checkpoints" and path.is_dir():
        return all(p.name == f"{0:012d}" for p in path.iterdir())
    return path.name == "config.partial"


def _keep_until(path: Path, update: int) -> None:
    """Drops lines of reports after the checkpoint: they will be written again."""
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    kept = [line for line in lines if line.endswith("\n") and json.loads(line)["update"] <= update]
    partial = path.with_suffix(".partial")
    partial.write_text("".join(kept))
    partial.replace(path)


def _evaluator(task: Task, settings: Settings, mesh: Mesh | None) -> Any:
    """A jitted ``(params [S], keys [S], update) -> mean returns [S]``, always the same.

    Of T members they are ``[S, T]``, NaN of one that diverged.
    """

    def assess(params: PyTree, keys: jax.Array, update: jax.Array) -> jax.Array:
        def one(params: PyTree, key: jax.Array) -> jax.Array:
            if task.assess is not None:
                return task.assess(params)
            # Apart from the training keys, which are split from the seed's key, never folded.
            key = jax.random.fold_in(key, update)
            episodes = settings.eval_episodes
            result = evaluate(task.learner, params, task.env, key, episodes, task.env_params)
            return result.mean_return()

        if task.learner.members:
            # What acts with weights that are not finite means nothing.
            returns = jax.vmap(jax.vmap(one, (0, None)))(params, keys)
            return jnp.where(jax.vmap(population.finite)(params), returns, jnp.nan)
        return jax.vmap(one)(params, keys)

    return jax.jit(shards.over_seeds(assess, mesh))


def _lines(
    report: train.Report, eval_returns: jax.Array, labels: dict[str, jax.Array]
) -> list[dict[str, Any]]:
    """One metrics line per seed, or per seed and member, which says its `labels` ``[S, T]``."""
    eval_returns, labels = checkpoint.to_numpy((eval_returns, labels))
    lines = []
    for place in np.ndindex(eval_returns.shape):
        numbers = {
            "eval_return": eval_returns[place].item(),
            # Floats as the shortest numbers that are the same in 32 bits.
            **{name: json.loads(str(x[place])) for name, x in labels.items()},
            **metrics.means({name: x[place] for name, x in report.sums.items()}),
        }
        lines.append(
            {
                "update": report.update,
                "env_steps": report.env_steps,
                **dict(zip(PLACE, place, strict=False)),
                **{k: x if x is None or np.isfinite(x) else None for k, x in numbers.items()},
            }
        )
    return lines


class _Log:
    """Appends reports to ``metrics.jsonl`` and to TensorBoard's event files."""

    def __init__(self, folder: Path, steps_done: int) -> None:
        from tensorboardX import SummaryWriter

        leads = jax.process_index() == 0
        self.file = (folder / "metrics.jsonl" if leads else Path(os.devnull)).open("a")
        # Readers drop what a killed run wrote after its last checkpoint.
        purge = steps_done + 1 if steps_done else None
        self.events = SummaryWriter(
            str(folder / "tensorboard"), purge_step=purge, write_to_disk=leads
        )

    def __enter__(self) -> "_Log":
        return self

    def __exit__(self, *_: Any) -> None:
        self.file.close()
        self.events.close()

    def write(self, lines: list[dict[str, Any]], steps_per_second: float) -> None:
        for line in lines:
            self.file.write(json.dumps(line) + "\n")
            place = "".join(f"/{name}{line[name]}" for name in PLACE if name in line)
            for name, value in line.items():
                if name not in ("update", "env_steps", *PLACE) and value is not None:
                    self.events.add_scalar(f"{name}{place}", value, line["env_steps"])
        self.events.add_scalar("steps_per_second", steps_per_second, lines[0]["env_steps"])
        self.file.flush()


def _summary(record: dict[str, Any], folder: Path, clock: dict[str, float]) -> dict[str, Any]:
    from rlax_lab import plots

    curve = plots.read_curve(folder)
    steps, seeds = int(curve.steps[-1]), record["seeds"]
    return {
        "algo": record["algo"],
        "env": record["env"],
        "seeds": seeds,
        "env_steps": steps,
        "final_return": final(curve.returns[-1]),
        "steps_to_threshold": reached(curve.steps, curve.returns, curve.threshold),
        "steps_per_second": steps * seeds / clock["train"],
        "compile_seconds": clock["compile"],
        "wall_seconds": clock["wall"],
        **provenance.stamp(),
        "config": record["config"],
    }


def reached(steps: np.ndarray, returns: np.ndarray, threshold: float | None) -> dict[str, Any]:
    """When each seed's returns ``[R, S]`` reached a threshold, as a summary has it."""
    found: list[int | None] = [None] * returns.shape[1]
    if threshold is not None:
        found = statistics.steps_to_threshold(steps, returns, threshold)
    return {"threshold": threshold, "per_seed": found}


def final(returns: np.ndarray) -> dict[str, Any]:
    """Returns of every seed ``[S]``, NaN where there is none, as a summary has them."""
    if np.all(np.isnan(returns)):  # no episode ended within the evaluation's limit
        none = [None] * len(returns)
        return {"iqm": None, "mean": None, "ci95": [None, None], "per_seed": none}
    return dict(statistics.summarize(returns))
