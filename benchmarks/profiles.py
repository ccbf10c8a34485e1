"""All tasks of a group together: each learner's scores, as Agarwal et al. 2021 report them.

`benchmarks.curves` makes the section of RESULTS.md from the result files. A score is 0 at the mean
return of uniformly random actions and 1 at the best published run of a task.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from rlax_lab.plots import THRESHOLD, look, save, style
from rlax_lab.statistics import (
    iqm,
    median,
    optimality_gap,
    performance_profile,
    probability_of_improvement,
    stratified_interval,
)

# Returns at which the score is 0 (random actions, mean of 4000 episodes) and 1 (SB3 zoo's runs).
SCALE = {
    "CartPole-v1": (22.0, 500.0),
    "Acrobot-v1": (-499.1, -73.5),
    "MountainCar-v0": (-200.0, -100.8),
    "Pendulum-v1": (-1229.5, -163.0),
    "MountainCarContinuous-v0": (-33.1, 91.2),
}
# Learners, and the tasks that all of these can do.
SETS = {
    "CartPole, Acrobot, MountainCar": (
        ("ppo", "a2c", "a3c", "reinforce", "dqn"),
        ("CartPole-v1", "Acrobot-v1", "MountainCar-v0"),
    ),
    "the same, Pendulum and MountainCarContinuous": (
        ("ppo", "a2c", "a3c", "reinforce"),
        tuple(SCALE),
    ),
}


class Learner(NamedTuple):
    """A learner's scores on some tasks, ``[seeds, tasks]``."""

    name: str
    scores: NDArray[np.float64]


def collect(returns: Mapping[tuple[str, str], Any]) -> dict[str, list[Learner]]:
    """Of each of `SETS` the learners with a result on all of its tasks, if there are any.

    Args:
      returns: the last returns of every seed, by learner and task.
    """
    found = {}
    for title, (algos, tasks) in SETS.items():
        there = [algo for algo in algos if all((algo, task) in returns for task in tasks)]
        if there:
            found[title] = [
                Learner(algo, np.column_stack([score(task, returns[algo, task]) for task in tasks]))
                for algo in there
            ]
    return found


def score(task: str, returns: Any) -> NDArray[np.float64]:
    """Returns on the scale from random actions, 0, to the best published run, 1."""
    random, published = SCALE[task]
    return (np.asarray(returns, np.float64) - random) / (published - random)


@style()
def draw(sets: Mapping[str, list[Learner]], out: Path) -> Path:
    """Performance profiles: the part of all runs above a score, with 95 % bands."""
    figure = Figure((10, 3.9))
    every = figure.subplots(1, len(sets), sharey=True, squeeze=False)[0]
    at = np.linspace(0.6, 1.05, 181)
    for axes, (title, learners) in zip(every, sets.items(), strict=True):
        for index, (name, scores) in enumerate(learners):
            low, high = stratified_interval(lambda x: performance_profile(x, at), scores)
            axes.fill_between(at, low, high, color=look(index)["color"], alpha=0.2, linewidth=0)
            axes.plot(at, performance_profile(scores, at), **look(index), label=name)
        axes.axvline(1, **THRESHOLD)
        axes.set_xlabel(f"score on {title}")
        axes.set_xlim(at[0], at[-1])
    every[0].set_ylabel("part of the runs above it")
    every[0].legend(loc="lower left")
    return save(figure, out)


def rows(learners: list[Learner]) -> list[list[str]]:
    """Of each learner IQM, median, optimality gap, and how likely a run of it beats the first's."""
    lines = []
    for name, scores in learners:
        cells = [name, *(_cell(f, scores) for f in (iqm, median, optimality_gap))]
        if learners[0].name == name:
            cells.append("")
        else:
            cells.append(_cell(probability_of_improvement, scores, learners[0].scores))
        lines.append(cells)
    return lines


def _cell(statistic: Any, *scores: NDArray[np.float64]) -> str:
    low, high = stratified_interval(statistic, *scores)
    return f"{float(statistic(*scores)):.3f} [{low:.3f}, {high:.3f}]"
