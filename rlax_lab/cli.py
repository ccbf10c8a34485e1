"""The command line: train, sweep, evaluate, plot, compare, envs, fab."""

import argparse
import contextlib
import dataclasses
import functools
import gc
import os
import socket
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from rlax_lab import a2c, a3c, actor_critic, commands, dqn, policy, ppo, reinforce, shards, signals
from rlax_lab import config as configs
from rlax_lab.errors import InputError, NonFiniteError, nearest
from rlax_lab.packages import ours, set_apart

ALGORITHMS: dict[str, Any] = {
    "reinforce": reinforce,
    "actor_critic": actor_critic,
    "a2c": a2c,
    "a3c": a3c,
    "dqn": dqn,
    "ppo": ppo,
}


# How long a process waits for the first of them, in seconds; the first waits as long, by JAX.
_PATIENCE = 300.0


def main(words: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit code: 2 on bad input, 1 where training diverged.

    Args:
      words: the command's; by default those of the process, which is then the command's own.
    """
    if words is None:
        set_apart()
        with signals.ctrl_c_ends():
            return main(sys.argv[1:])
    words = list(words)
    # Tracing makes many objects that stay. To look for garbage among them as often as Python does
    # by itself takes a fifteenth of a start.
    gc.set_threshold(100_000)
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning
        try:
            return _command(words)
        except (InputError, NonFiniteError) as error:
            print(f"rlax-lab: {error}", file=sys.stderr)
            return 2 if isinstance(error, InputError) else 1
        except KeyboardInterrupt:
            return 130
        except BrokenPipeError:
            # The reader of a pipe, such as head, has seen enough; nothing more may be written.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    print(f"rlax-lab: warning: {message}", file=sys.stderr)


COMMANDS = {
    "train": "train an algorithm on an environment",
    "sweep": "search for an algorithm's settings, in one program",
    "evaluate": "play the policy of a run",
    "plot": "draw the learning curves of runs",
    "compare": "put runs side by side: curves, final returns, efficiency, stability",
    "envs": "list the environments",
    "fab": "simulate wafer fabs under dispatching rules",
}


def _command(words: list[str]) -> int:
    name = words[0] if words else "--help"
    if name in ("-h", "--help"):
        lines = [f"  {command:10} {text}" for command, text in COMMANDS.items()]
        print("usage: rlax-lab COMMAND ...\n\ncommands:")
        print("\n".join(lines))
        print("\nrlax-lab COMMAND --help says more.")
        return 0
    if name not in COMMANDS:
        hint = nearest(name, COMMANDS) or f"; the commands are {', '.join(COMMANDS)}."
        raise InputError(f"there is no command {name!r}{hint}")
    run = {
        "train": _train,
        "sweep": _sweep,
        "evaluate": _evaluate,
        "plot": _plot,
        "compare": _compare,
        "envs": _envs,
        "fab": _fab,
    }
    return run[name](words[1:])


def _train(words: list[str]) -> int:
    from rlax_lab import runs

    groups = {"the run": runs.Settings, "several hosts, each with this command": Processes}
    asked = ask("train", words, groups, runs.read_record)
    if asked is None:
        return 0
    algo, given, parsed = asked
    processes = commands.build(Processes, given)
    _join(processes)
    commands.use_all_cores()
    settings = commands.build_settings(runs.Settings, given)
    config = commands.build(ALGORITHMS[algo].Config, given)
    task = make_task(algo, given["env"], config, settings.parts)
    folder = parsed.out or commands.new_folder(algo, given["env"].replace(":", "."))
    commands.use_compilation_cache()
    with _together(processes):
        return commands.run(task, settings, folder, parsed.resume)


def _sweep(words: list[str]) -> int:
    from rlax_lab import sweep

    return sweep.command(words)


def ask(
    command: str,
    words: list[str],
    groups: dict[str, type],
    read_record: Callable[[Path], dict[str, Any]],
    more: str = "",
) -> tuple[str, dict[str, Any], argparse.Namespace] | None:
    """What ``COMMAND ALGO --env ENV ...`` asks for: algorithm, fields and flags; None for help.

    Args:
      command: its name.
      words: what follows it.
      groups: classes of settings beside the algorithm's configuration, by title.
      read_record: as of `commands.resumed`.
      more: to be said of the command beside what the algorithm is.
    """
    if not words or words[0] in ("-h", "--help"):
        print(f"usage: rlax-lab {command} ALGO --env ENV [options]\n\nalgorithms:")
        for name, module in ALGORITHMS.items():
            print(f"  {name:13} {_about(module)}")
        print(f"\nrlax-lab {command} ALGO --help explains every option.")
        return None
    algo = words[0]
    if algo not in ALGORITHMS:
        hint = nearest(algo, ALGORITHMS) or f"; the algorithms are {', '.join(ALGORITHMS)}."
        raise InputError(f"there is no algorithm {algo!r}{hint}")
    module = ALGORITHMS[algo]
    presets = getattr(module, "PRESETS", {})
    about = f"{_about(module)} {more}".strip()
    parser = commands.Parser(prog=f"rlax-lab {command} {algo}", description=about)
    parser.add_argument("--env", help="an environment's name, or module:callable")
    commands.add_folder(parser)
    if presets:
        names = ", ".join(presets)
        parser.add_argument("--preset", help=f"other defaults for all that follows: {names}")
    for title, cls in groups.items():
        commands.add_settings(parser.add_argument_group(title), cls)
    commands.add_settings(parser.add_argument_group(f"configuration of {algo}"), module.Config)
    parsed = parser.parse(words[1:])
    given = commands.given(parsed)
    if given.get("preset") is not None:
        given = _preset(presets, given["preset"]) | given
    given = commands.resumed(parsed, given, read_record)
    if given["env"] is None:
        raise InputError("--env is missing: an environment's name, or module:callable.")
    return algo, given, parsed


def _about(module: Any) -> str:
    """What an algorithm is, and on which action spaces."""
    return f"{module.__doc__.splitlines()[0]} Actions: {', '.join(_actions(module))}."


def _actions(module: Any) -> tuple[str, ...]:
    return getattr(module, "ACTIONS", policy.ACTIONS)


def _preset(presets: dict[str, Any], name: str) -> dict[str, Any]:
    """The fields of a named configuration."""
    if name not in presets:
        hint = nearest(name, presets) or f"; the presets are {', '.join(presets)}."
        raise InputError(f"there is no preset {name!r}{hint}")
    config = presets[name]
    return {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}


def _evaluate(words: list[str]) -> int:
    parser = commands.Parser(
        prog="rlax-lab evaluate", description="Plays the greedy policy of a run."
    )
    parser.add_argument("run", type=Path, help="the run's folder")
    commands.add_settings(parser, Episodes)
    parsed = parser.parse(words)
    settings = commands.build(Episodes, commands.given(parsed))
    import jax
    import numpy as np

    from rlax_lab import runs, statistics
    from rlax_lab.evaluate import evaluate

    record = runs.read_record(parsed.run)
    algo = record["algo"]
    if algo not in ALGORITHMS:
        raise InputError(f"{parsed.run} holds a run of the unknown algorithm {algo!r}.")
    config = configs.from_json(ALGORITHMS[algo].Config, record["config"])
    task = make_task(algo, record["env"], config, record["parts"])
    update, params = runs.load_params(task, parsed.run, record["seeds"])
    commands.use_compilation_cache()

    def one(params: Any) -> Any:
        key = jax.random.key(settings.seed)
        return evaluate(task.learner, params, task.env, key, settings.episodes, task.env_params)

    result = jax.device_get(jax.jit(jax.vmap(one))(params))
    steps = task.learner.steps_after(update)
    print(f"{algo} on {record['env']} after {steps} steps per seed, greedy policy")
    means = []
    for seed, (returns, finished) in enumerate(
        zip(result.episode_return, result.finished, strict=True)
    ):
        ended = returns[finished]
        means.append(ended.mean() if ended.size else np.nan)
        unfinished = f", {np.sum(~finished)} did not end" if not finished.all() else ""
        shown = f"{means[-1]:.1f} +- {ended.std():.1f}" if ended.size else "no episode ended"
        print(f"  seed {record['seed'] + seed}: {shown}{unfinished}")
    if not np.all(np.isnan(means)):
        summary = statistics.summarize(means)
        low, high = summary["ci95"]
        print(f"IQM {summary['iqm']:.1f}, 95 % interval {low:.1f} to {high:.1f}")
    return 0


def _plot(words: list[str]) -> int:
    parser = commands.Parser(
        prog="rlax-lab plot", description="Draws learning curves: IQM over seeds."
    )
    parser.add_argument("runs", type=Path, nargs="+", help="folders of runs")
    parser.add_argument("--out", type=Path, required=True, help="the picture: .png, .pdf or .svg")
    parsed = parser.parse(words)
    from rlax_lab import plots

    print(plots.learning_curves(parsed.runs, parsed.out))
    return 0


def _compare(words: list[str]) -> int:
    from rlax_lab import compare

    about = "Puts runs on one environment side by side, in pictures and a table."
    parser = commands.Parser(prog="rlax-lab compare", description=about)
    parser.add_argument(
        "runs", type=Path, nargs="+", metavar="RUN", help="a run's folder, or a result's .npz"
    )
    parser.add_argument("--out", type=Path, required=True, help="a new folder for all of it")
    commands.add_settings(parser, compare.Settings)
    parsed = parser.parse(words)
    settings = commands.build(compare.Settings, commands.given(parsed))
    print(compare.compare(parsed.runs, parsed.out, settings))
    print(f"\n{parsed.out}: {', '.join(sorted(path.name for path in parsed.out.iterdir()))}")
    return 0


def _envs(words: list[str]) -> int:
    commands.Parser(prog="rlax-lab envs", description="Lists the environments.").parse(words)
    registry = ours("registry")
    rows = [registry.describe(name) for name in registry.names()]
    for row in rows:
        kind = row["actions"].split()[0]
        others = [name for name, module in ALGORITHMS.items() if kind not in _actions(module)]
        row["algorithms"] = f"all but {', '.join(others)}" if others else "all"
    columns = ("name", "observation", "actions", "time_limit", "algorithms")
    widths = [max(len(str(row[c])) for row in [*rows, {c: c}] if c in row) for c in columns]
    for row in [{c: c.replace("_", " ") for c in columns}, *rows]:
        print(
            "  ".join(str(row[c]).ljust(w) for c, w in zip(columns, widths, strict=True)).rstrip()
        )
    return 0


def _fab(words: list[str]) -> int:
    from rlax_lab import fab_cli

    return fab_cli.command(words)


@configs.configuration
class Episodes:
    """What `evaluate` plays."""

    episodes: int = configs.setting(128, "episodes per seed", low=1)
    seed: int = configs.setting(12345, "of the episodes", low=0, high=2**31 - 1)


@configs.configuration
class Processes:
    """The processes that share one run."""

    processes: int = configs.setting(1, "how many share this run", low=1)
    process: int = configs.setting(0, "which of them this is, from 0", low=0)
    coordinator: str | None = configs.setting(None, "HOST:PORT of process 0, where they meet")


def _join(ours: Processes) -> None:
    """Meets the other processes of a run. Before JAX is used.

    Raises:
      InputError: where these cannot meet.
    """
    if ours.process >= ours.processes:
        raise InputError(
            f"process is {ours.process}, but must be below processes = {ours.processes}."
        )
    if ours.processes == 1:
        return
    if ours.coordinator is None:
        raise InputError("--processes needs --coordinator, HOST:PORT of process 0.")
    host, _, port = ours.coordinator.rpartition(":")
    if not host or not port.isdecimal() or int(port) >= 2**16:
        raise InputError(f"coordinator is {ours.coordinator!r}, but must be HOST:PORT.")
    if ours.process > 0:
        _await(host, int(port))
    import jax

    options: Any = jax.config
    options.update("jax_enable_preemption_service", False)  # which would keep SIGTERM to itself
    try:
        jax.distributed.initialize(ours.coordinator, ours.processes, ours.process)
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"process {ours.process} cannot meet the others at {ours.coordinator}: {reason}"
        ) from error


def _await(host: str, port: int) -> None:
    """Waits until somebody listens there: JAX would abort where nobody does.

    Raises:
      InputError: where there is no such host, or nobody in time.
    """
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            socket.create_connection((host, port), timeout=_PATIENCE).close()
        except OSError as error:
            if isinstance(error, socket.gaierror) or time.monotonic() > deadline:
                raise InputError(f"process 0 is not at {host}:{port}: {error.strerror}.") from error
            time.sleep(0.2)
        else:
            return


@contextlib.contextmanager
def _together(processes: Processes) -> Iterator[None]:
    """Ends a process that fails alone at once: its usual end waits for the others, as they for it.

    Errors of ours are those of all.
    """
    import jax

    try:
        yield
    except (InputError, NonFiniteError):
        raise
    except BaseException as error:
        if processes.processes == 1:
            raise
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        lost = isinstance(error, jax.errors.JaxRuntimeError) or "Gloo" in reason
        if not lost and not isinstance(error, KeyboardInterrupt):
            traceback.print_exc()
        print(
            f"rlax-lab: process {processes.process} cannot go on ({reason}); when all have ended, "
            "--resume goes on from the last checkpoint.",
            file=sys.stderr,
            flush=True,
        )
        os._exit(1)


def make_task(
    algo: str,
    env_name: str,
    config: Any,
    parts: int,
    many: Callable[[Callable[[Any], Any], Any], Any] | None = None,
) -> Any:
    """What is trained on what; with `many` it is the learner ``many(make, config)``."""
    from rlax_lab.runs import Task

    registry = ours("registry")
    try:
        env, env_params = registry.make(env_name)
    except registry.UnknownEnvironment as error:
        raise InputError(str(error)) from error
    module = ALGORITHMS[algo]

    def make(config: Any) -> Any:
        return module.make(env, config, env_params)

    learner = shards.spread(functools.partial(many, make) if many else make, config, parts)
    threshold = registry.threshold(env_name)
    return Task(algo, env_name, env, env_params, threshold, config, learner)
