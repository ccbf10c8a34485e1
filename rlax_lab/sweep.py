"""Search over the float fields of a configuration: `rlax-lab sweep`.

All settings and seeds train in one program (`rlax_lab.population`). The best of many settings looks
better than it is, having been picked by the same numbers. So what it is worth is measured anew: a
setting on fresh seeds, the best members of populations in fresh episodes.
"""

import dataclasses
import functools
import itertools
import json
import math
import shlex
import typing
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlax_lab import checkpoint, cli, commands, population, progress, provenance, runs
from rlax_lab import config as configs
from rlax_lab.config import configuration, setting
from rlax_lab.errors import InputError, NonFiniteError
from rlax_lab.population import Range, Space
from rlax_lab.types import Learner

ABOUT = (
    "Trains many settings and seeds in one program. What takes a number X takes here also a list "
    "such as 1e-4,1e-3,1e-2, or a range such as 0.9:0.999 or log:1e-4:1e-2."
)
# With fewer there is no telling the best from the worst.
FEWEST_MEMBERS = 4


@configuration
class Settings(runs.Settings):
    """How a sweep is conducted."""

    method: str | None = setting(
        None,
        "draws at random, all combinations of lists (grid) or only their first, second, ... values "
        "together (zip), or population-based training within ranges (Jaderberg et al. 2017); none "
        "for grid where there are but lists, else random",
        choices=("random", "grid", "zip", "pbt"),
    )
    trials: int | None = setting(
        None,
        "how many settings, or members of a population; none for 16, or all of a grid or zip",
        low=1,
    )
    seeds: int = setting(5, "runs of every setting, or populations", low=1)
    reports: int = setting(
        20, "how many times to evaluate and report; after each, a population evolves", low=1
    )
    fresh_seeds: int = setting(
        10, "seeds to train the best setting with anew, not of pbt; 0 for none", low=0
    )
    exploit_fraction: float = setting(
        0.2, "of pbt: what part of a population copies as many of its best (paper: 0.2)", above=0
    )
    perturbation: float = setting(
        0.2,
        "of pbt: how far the values of a copy move, as a factor of 1 +- this within a log range "
        "(paper: 0.2), or by this part of a range's width",
        above=0,
        high=1,
    )


def command(words: list[str]) -> int:
    """``sweep``; returns the exit code.

    Raises:
      InputError: on bad input.
    """
    asked = cli.ask("sweep", words, {"the sweep": Settings}, read_record, ABOUT)
    if asked is None:
        return 0
    algo, given, parsed = asked
    commands.use_all_cores()
    module = cli.ALGORITHMS[algo]
    space = read_space(module.Config, given)
    settings = resolved(commands.build_settings(Settings, given), space)
    config = commands.build(module.Config, {k: v for k, v in given.items() if k not in space})
    commands.use_compilation_cache()
    asked_for = dataclasses.replace(config, **{name: given[name] for name in space})
    found = task(algo, given["env"], config, space, settings)._replace(config=asked_for)
    folder = parsed.out or commands.new_folder(f"sweep_{algo}", given["env"].replace(":", "."))
    return commands.until_stopped(
        lambda: run(found, config, space, settings, folder, parsed.resume), folder
    )


def read_space(cls: type, given: dict[str, Any]) -> Space:
    """The fields of a configuration that were given as lists or ranges.

    Raises:
      InputError: on one that is neither, or of a field that must be the same for all.
    """
    hints = typing.get_type_hints(cls)
    kinds = {f.name: configs.kinds(hints[f.name]) for f in dataclasses.fields(cls)}
    floats = [name for name, kind in kinds.items() if float in kind]
    space: Space = {}
    for name in kinds:
        text = given.get(name)
        if not isinstance(text, str):
            continue
        if name in floats:
            space[name] = read_values(name, text)
        elif set(text) & {",", ":"} and typing.get_origin(kinds[name][0]) is not tuple:
            raise InputError(
                f"{name} is {text!r}, but must be the same in all runs of a program; what can vary "
                f"is {', '.join(floats)}."
            )
    if not space:
        raise InputError(
            "nothing varies; give a list or a range, such as --gamma 0.9:0.999, to any of "
            f"{', '.join(floats)}."
        )
    return space


def read_values(name: str, text: str) -> Range | tuple[float, ...]:
    """A list such as ``0.1,0.2`` or a range such as ``0:1`` or ``log:1e-4:1e-2``.

    Raises:
      InputError: on anything else.
    """
    log = text.startswith("log:")
    ranged = log or ":" in text
    words = text.removeprefix("log:").split(":" if ranged else ",")
    try:
        numbers = tuple(float(word) for word in words)
    except ValueError:
        numbers = ()
    right = len(numbers) == 2 if ranged else len(numbers) > 0
    if not right or not all(map(math.isfinite, numbers)):
        raise InputError(
            f"{name} is {text!r}, but must be a number, a list such as 0.1,0.2 or a range such as "
            "0.1:0.2 or log:0.1:0.2."
        )
    if not ranged:
        return numbers
    low, high = numbers
    if not low < high:
        raise InputError(f"{name} is {text!r}, but the low end of a range must be below the high.")
    if log and low <= 0:
        raise InputError(f"{name} is {text!r}, but a logarithmic range must lie above 0.")
    return Range(low, high, log)


def resolved(settings: Settings, space: Space) -> Settings:
    """`settings` with a method and a number of trials.

    Raises:
      InputError: where these do not go together, or with what varies.
    """
    configs.check(settings)
    configs.check(fresh(settings))
    ranges = [name for name, over in space.items() if isinstance(over, Range)]
    lists = [name for name in space if name not in ranges]
    method = settings.method or ("random" if ranges else "grid")
    trials = settings.trials
    if method in ("grid", "zip"):
        if ranges:
            raise InputError(f"{ranges[0]} is a range, but a {method} is made of lists.")
        lengths = [len(over) for over in space.values()]
        if method == "zip" and len(set(lengths)) > 1:
            had = ", ".join(f"{name} {n}" for name, n in zip(space, lengths, strict=True))
            raise InputError(f"the lists of a zip must be equally long, but have values: {had}.")
        size = math.prod(lengths) if method == "grid" else lengths[0]
        if trials not in (None, size):
            raise InputError(f"trials is {trials}, but the {method} has {size}.")
        trials = size
    trials = 16 if trials is None else trials
    if method == "pbt":
        if lists:
            raise InputError(f"{lists[0]} is a list, but a population explores ranges.")
        if trials < FEWEST_MEMBERS:
            raise InputError(
                f"trials is {trials}, but a population must have at least {FEWEST_MEMBERS} members."
            )
    return dataclasses.replace(settings, method=method, trials=trials)


def fresh(settings: Settings) -> runs.Settings:
    """How the best setting is trained anew; if it is not, as it was trained."""
    return runs.Settings(
        seeds=settings.fresh_seeds or settings.seeds,
        seed=settings.seed + (settings.seeds if settings.fresh_seeds else 0),
        reports=settings.reports,
        eval_episodes=settings.eval_episodes,
        checkpoint_seconds=settings.checkpoint_seconds,
        parts=settings.parts,
    )


def values_of(space: Space, settings: Settings) -> population.Values:
    """The settings that a search by grid, by zip or at random tries ``[trials]``, by field."""
    if settings.method == "grid":
        return population.grid(space)
    if settings.method == "zip":
        return {name: jnp.array(over, jnp.float32) for name, over in space.items()}
    # Apart from the keys of evaluations, which are folded with numbers of updates.
    key = jax.random.fold_in(jax.random.key(settings.seed), jnp.uint32(2**31))
    assert settings.trials is not None
    return population.draw(key, space, settings.trials)


def task(algo: str, env: str, config: Any, space: Space, settings: Settings) -> runs.Task:
    """What a sweep trains.

    Args:
      algo, env: what learns what.
      config: of all runs, but for the fields in `space`.
      settings: as `resolved`.

    Raises:
      InputError: on values that cannot work, or that make no difference.
    """
    evolves = settings.method == "pbt"
    module = cli.ALGORITHMS[algo]
    check = getattr(module, "check_config", configs.check)
    ends = {name: over[:2] if isinstance(over, Range) else over for name, over in space.items()}
    for name, values in ends.items():
        for value in values:
            configs.check(dataclasses.replace(config, **{name: value}))
    tried = population.grid(ends) if evolves else values_of(space, settings)
    for each in zip(*(np.asarray(x).tolist() for x in tried.values()), strict=True):
        check(dataclasses.replace(config, **dict(zip(tried, each, strict=True))))

    def many(make: Any, config: Any) -> Learner:
        if not evolves:
            return population.side_by_side(make, config, tried)
        assert settings.trials is not None
        return population.evolving(
            make,
            config,
            space,
            settings.trials,
            settings.reports,
            settings.exploit_fraction,
            settings.perturbation,
        )

    found = cli.make_task(algo, env, config, settings.parts, many)
    one = {name: x[0] for name, x in tried.items()}
    alone = functools.partial(module.make, found.env, env_params=found.env_params)
    idle = population.unused(
        lambda values: alone(dataclasses.replace(config, **values)), one, start=not evolves
    )
    if idle:
        when = "once a run has begun" if evolves else "under these settings"
        raise InputError(f"{idle[0]} varies, but nothing depends on it {when}.")
    return found


def run(
    task: runs.Task,
    config: Any,
    space: Space,
    settings: Settings,
    folder: Path,
    resume: bool = False,
) -> dict[str, Any]:
    """Sweeps, measures what is best anew, and draws; returns what ``summary.json`` holds.

    Args:
      task, config, space, settings: as of `task`.
      folder, resume: as of `runs.conduct`.

    Raises:
      InputError, Stopped: as `runs.conduct`.
      NonFiniteError: where no trial has a return at the end.
    """
    outcome = runs.conduct(task, settings, folder, resume)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    if all(line["eval_return"] is None for line in final(lines)):
        raise NonFiniteError(
            f"every trial in {folder} diverged, or ended no episode in its last evaluation."
        )
    if settings.method == "pbt":
        found = _best_members(task, space, settings, lines, outcome.assess(0))
    else:
        found = _best_setting(task, config, space, settings, lines, folder)
    summary = {
        "algo": task.algo,
        "env": task.env_name,
        "method": settings.method,
        "trials": settings.trials,
        "seeds": settings.seeds,
        "env_steps": task.learner.total_steps,
        **found,
        "steps_per_second": task.learner.total_steps * len(final(lines)) / outcome.clock["train"],
        "compile_seconds": outcome.clock["compile"],
        "wall_seconds": outcome.clock["wall"],
        **provenance.stamp(),
        "config": outcome.record["config"],
    }
    checkpoint.write_json(folder / "summary.json", summary)
    from rlax_lab import sweep_plots  # matplotlib is slow to import

    picture = sweep_plots.draw(summary, lines, space, folder / "sweep.png")
    best = summary["best"]
    anew = "fresh episodes" if settings.method == "pbt" else "fresh seeds"
    progress.table(
        {
            "sweep": f"{settings.method}, {settings.trials} trials x {settings.seeds} seeds x "
            f"{progress.count(summary['env_steps'])} steps",
            "best": f"trial {best['trial']}: {population.told(best['values'])}",
            "as picked": progress.measured(best["picked"]),
            **({f"on {anew}": progress.measured(best["fresh"])} if best["fresh"] else {}),
            "speed": progress.speed(summary),
            "picture": str(picture),
            "sweep folder": str(folder),
        }
    )
    progress.say(best["command"])
    return summary


def final(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The lines of the last report."""
    return [line for line in lines if line["update"] == lines[-1]["update"]]


def _best_setting(
    task: runs.Task,
    config: Any,
    space: Space,
    settings: Settings,
    lines: list[dict[str, Any]],
    folder: Path,
) -> dict[str, Any]:
    """All settings and the best by its interquartile mean, if asked to trained anew."""
    trials = []
    for trial, group in itertools.groupby(
        sorted(final(lines), key=lambda line: line["trial"]), key=lambda line: line["trial"]
    ):
        of_trial = list(group)
        returns = np.array([line["eval_return"] for line in of_trial], np.float64)
        values = {name: of_trial[0][name] for name in space}
        trials.append({"trial": trial, "values": values, "final_return": runs.final(returns)})

    best = max(trials, key=lambda trial: rank(trial["final_return"]))
    chosen, again = dataclasses.replace(config, **best["values"]), fresh(settings)
    anew = None
    if settings.fresh_seeds:
        alone = cli.make_task(task.algo, task.env_name, chosen, again.parts)
        inside = folder / "best"
        resume = (inside / "config.json").exists()
        anew = runs.run(alone, again, inside, resume)["final_return"]
    return {
        "best": {
            "trial": best["trial"],
            "values": best["values"],
            "picked": best["final_return"],
            "fresh": anew,
            "command": command_of("train", task, again, chosen),
        },
        "settings": trials,
    }


def rank(returns: dict[str, Any]) -> tuple[bool, float]:
    """Higher is better: a setting of which a run diverged comes after all of which none did."""
    iqm = -math.inf if returns["iqm"] is None else returns["iqm"]
    return None not in returns["per_seed"], iqm


def _best_members(
    task: runs.Task,
    space: Space,
    settings: Settings,
    lines: list[dict[str, Any]],
    anew: np.ndarray,
) -> dict[str, Any]:
    """The best member of each population, its returns in other episodes, and how the best of all
    came about; `anew` is ``[seeds, trials]``."""
    score = np.full(anew.shape, -np.inf)
    for line in final(lines):
        if line["eval_return"] is not None:
            score[line["seed"], line["trial"]] = line["eval_return"]
    members = score.argmax(axis=1)
    places = np.arange(len(score)), members
    picked = np.where(np.isfinite(score[places]), score[places], np.nan)
    seed = int(score[places].argmax())
    ancestry = lineage(lines, seed, int(members[seed]))
    schedule = [
        {"env_steps": line["env_steps"], "trial": line["trial"]}
        | {name: line[name] for name in space}
        for line in ancestry
    ]
    return {
        "best": {
            "trial": int(members[seed]),
            "seed": seed,
            "values": {name: ancestry[-1][name] for name in space},
            "picked": runs.final(picked),
            "fresh": runs.final(anew[places].astype(np.float64)),
            "command": command_of("sweep", task, settings, task.config),
            "schedule": schedule,
        },
    }


def lineage(lines: list[dict[str, Any]], seed: int, trial: int) -> list[dict[str, Any]]:
    """The lines of those that a member of a population comes from, one per report, itself last."""
    by_place = {(line["update"], line["seed"], line["trial"]): line for line in lines}
    found = []
    for update in sorted({line["update"] for line in lines}, reverse=True):
        line = by_place[update, seed, trial]
        found.append(line)
        trial = line["parent"]
    return found[::-1]


def command_of(name: str, task: runs.Task, settings: Any, config: Any) -> str:
    """The command line that runs this, with every field that is not at its default."""
    words = ["rlax-lab", name, task.algo, "--env", task.env_name]
    for fields in (settings, config):
        for field in dataclasses.fields(fields):
            value = getattr(fields, field.name)
            flag = "--" + field.name.replace("_", "-")
            if value == field.default or field.name in runs.NOT_RECORDED:
                continue
            if isinstance(value, bool):
                words.append(flag if value else f"--no-{flag[2:]}")
            else:
                words.append(f"{flag}={'none' if value is None else commands.text(value)}")
    return shlex.join(words)


def read_record(folder: Path) -> dict[str, Any]:
    """What a sweep's ``config.json`` says.

    Raises:
      InputError: where there is none, or it is a single run's.
    """
    return runs.read_record(folder, sweep=True)
