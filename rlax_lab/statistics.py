"""Statistics over seeds: what a handful of runs says about an algorithm.

The unit is the run (seed), never the episode: episodes of one run share their weights and are not
independent. NaN means "nothing measured yet", as for a seed that has not finished an episode.

What says something of an algorithm over several tasks takes its scores ``[..., runs, tasks]``: one
number per run of each task, on a scale that the tasks share, no NaN. Axes before these are kept.

Source: Agarwal et al., "Deep Reinforcement Learning at the Edge of the Statistical Precipice",
NeurIPS 2021, section 4 (interquartile mean, optimality gap, performance profile, probability of
improvement, percentile bootstrap over the runs of each task).
"""

import math
from collections.abc import Callable
from typing import TypedDict

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]


def interquartile_mean(x: ArrayLike, axis: int | tuple[int, ...] = -1) -> FloatArray:
    """Mean of the middle half along `axis`: `n // 4` values are cut off at each end.

    As `scipy.stats.trim_mean(x, 0.25, axis, nan_policy="omit")`. NaN is left out, so `n` counts
    the other values; where there are none the result is NaN.

    Args:
        x: any shape `[..., n, ...]`.
        axis: the axis of length `n`, or several whose lengths have the product `n`.

    Returns:
        float64 of the shape of `x` without `axis`.
    """
    x = np.asarray(x, np.float64)
    axes = (axis,) if isinstance(axis, int) else axis
    last = np.moveaxis(x, axes, range(-len(axes), 0))
    kept, cut_from = last.shape[: -len(axes)], last.shape[-len(axes) :]
    ordered = np.sort(last.reshape(*kept, math.prod(cut_from)), axis=-1)  # NaN goes last
    count = np.sum(~np.isnan(ordered), axis=-1, keepdims=True)
    cut = count // 4
    rank = np.arange(ordered.shape[-1])
    middle = (cut <= rank) & (rank < count - cut)
    total = np.sum(ordered, axis=-1, where=middle)
    left = np.sum(middle, axis=-1)
    return np.where(left > 0, total / np.maximum(left, 1), np.nan)[()]


def bootstrap_interval(
    values: ArrayLike,
    statistic: Callable[..., FloatArray] = interquartile_mean,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> tuple[FloatArray, FloatArray]:
    """Percentile bootstrap interval of `statistic`, with the run as the unit.

    Every position resamples the same runs, so the interval of a curve is one band. A position
    where some runs are NaN resamples the others; one where all are NaN gives NaN. With one run
    both ends equal its value. With few runs the interval is a little too narrow, as percentile
    intervals are.

    Args:
        values: `[..., runs]`.
        statistic: called as `statistic(x, axis=-1)` on `[resamples, runs]` without NaN.
        confidence: the level, in (0, 1).
        resamples: how many times the runs are drawn with replacement.
        seed: of the draws; the same seed gives the same interval.

    Returns:
        `(low, high)`, each `[...]`.

    Raises:
        ValueError: `values` holds no number at all.

    Source: Efron, "Bootstrap Methods: Another Look at the Jackknife", Annals of Statistics, 1979.
    """
    values = np.asarray(values, np.float64)
    if np.all(np.isnan(values)):  # also true of an empty array
        raise ValueError(
            "A bootstrap interval needs at least one run with a value that is not NaN."
        )
    tails = (1 - confidence) / 2, (1 + confidence) / 2
    table = values.reshape(-1, values.shape[-1])
    ends = np.full((2, len(table)), np.nan)
    for position, row in enumerate(table):  # one at a time: [resamples, runs] fits the cache
        runs = row[~np.isnan(row)]
        if runs.size:
            draws = np.random.default_rng(seed).integers(runs.size, size=(resamples, runs.size))
            ends[:, position] = np.quantile(statistic(runs[draws], axis=-1), tails)
    low, high = ends.reshape(2, *values.shape[:-1])
    return low, high


def iqm(scores: ArrayLike) -> FloatArray:
    """Interquartile mean over the runs of all tasks together, ``[..., runs, tasks] -> [...]``."""
    return interquartile_mean(_scores(scores), axis=(-2, -1))


def median(scores: ArrayLike) -> FloatArray:
    """Median over tasks of the mean over runs, ``[..., runs, tasks] -> [...]``."""
    return np.median(np.mean(_scores(scores), axis=-2), axis=-1)


def optimality_gap(scores: ArrayLike, target: float = 1.0) -> FloatArray:
    """How far runs stay below `target` on average, ``[..., runs, tasks] -> [...]``.

    What a run has above `target` makes up for nothing.
    """
    return np.mean(np.maximum(target - _scores(scores), 0.0), axis=(-2, -1))


def performance_profile(scores: ArrayLike, thresholds: ArrayLike) -> FloatArray:
    """The fraction of all runs above each threshold, ``[..., runs, tasks], [K] -> [..., K]``."""
    scores = _scores(scores)
    above = [np.mean(scores > tau, axis=(-2, -1)) for tau in np.asarray(thresholds, np.float64)]
    return np.stack(above, axis=-1)


def probability_of_improvement(scores: ArrayLike, others: ArrayLike) -> FloatArray:
    """How likely a run scores above one of another algorithm on the same task, mean over tasks.

    Ties count half: it is the Mann-Whitney U statistic over the number of pairs.

    Args:
        scores: `[..., runs, tasks]`.
        others: of the other algorithm, `[..., its runs, tasks]`.

    Returns:
        `[...]`, 0.5 where neither is better.
    """
    scores, others = _scores(scores), _scores(others)
    wins = [  # run by run: all pairs of all resamples would be large
        np.mean((run > others) + 0.5 * (run == others), axis=(-2, -1))
        for run in np.split(scores, scores.shape[-2], axis=-2)
    ]
    return np.mean(wins, axis=0)


def stratified_interval(
    statistic: Callable[..., FloatArray],
    *scores: ArrayLike,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> tuple[FloatArray, FloatArray]:
    """Percentile bootstrap interval of `statistic` that resamples the runs of each task apart.

    The tasks themselves are not resampled: it says what other runs on the same tasks may give.

    Args:
        statistic: called on arrays `[resamples, runs, tasks]`, one for each of `scores`; gives
            `[resamples, ...]`.
        scores: `[runs, tasks]` of each algorithm that `statistic` takes.
        confidence, resamples, seed: as of `bootstrap_interval`, which this is for one task.

    Returns:
        `(low, high)`, each `[...]`.
    """
    generator = np.random.default_rng(seed)
    drawn = []
    for x in map(_scores, scores):
        runs, tasks = x.shape
        draws = generator.integers(runs, size=(resamples, runs, tasks))
        drawn.append(x[draws, np.arange(tasks)])
    tails = (1 - confidence) / 2, (1 + confidence) / 2
    low, high = np.quantile(statistic(*drawn), tails, axis=0)
    return low, high


def sample_efficiency(
    scores: ArrayLike, resamples: int = 2000
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Curve over evaluations ``[R, runs, tasks]``: `iqm` and its 95 % interval, each ``[R]``."""
    scores = _scores(scores)
    ends = [stratified_interval(iqm, x, resamples=resamples) for x in scores]
    low, high = np.array(ends).T
    return iqm(scores), low, high


def _scores(scores: ArrayLike) -> FloatArray:
    scores = np.asarray(scores, np.float64)
    if scores.ndim < 2 or not scores.size or np.isnan(scores).any():
        raise ValueError(
            f"Scores must be [..., runs, tasks], at least one and none NaN; shape {scores.shape}."
        )
    return scores


class Summary(TypedDict):
    """One number per seed, reduced; `ci95` is the 95 % bootstrap interval of `iqm`."""

    iqm: float
    mean: float
    ci95: list[float]
    per_seed: list[float | None]


def summarize(per_seed: ArrayLike) -> Summary:
    """Reduce one number per seed, `[seeds]`, to plain Python floats that `json` writes as they are.

    A NaN seed is left out of the statistics and stands as None in `per_seed`.

    Raises:
        ValueError: no seed has a value.
    """
    values = np.asarray(per_seed, np.float64)
    low, high = bootstrap_interval(values)
    return {
        "iqm": float(interquartile_mean(values)),
        "mean": float(np.nanmean(values)),
        "ci95": [float(low), float(high)],
        "per_seed": [None if np.isnan(value) else float(value) for value in values],
    }


def steps_to_threshold(steps: ArrayLike, returns: ArrayLike, threshold: float) -> list[int | None]:
    """Per seed, the first reported step count with a return at or above `threshold`.

    Args:
        steps: `[R]`, ascending.
        returns: `[R, runs]`; NaN is below every threshold.
        threshold: in units of return.

    Returns:
        One step count per run, None for a run that never gets there.
    """
    steps = np.asarray(steps)
    reached = np.asarray(returns, np.float64) >= threshold
    return [int(steps[column.argmax()]) if column.any() else None for column in reached.T]


def rolling_variance(returns: ArrayLike, window: int) -> FloatArray:
    """Per seed, the unbiased variance of its last `window` returns, at every report.

    Args:
        returns: `[R, runs]`; NaN is left out.
        window: in reports, at least 2.

    Returns:
        `[R, runs]`; NaN where there were fewer reports so far, or fewer than two returns in them.
    """
    returns = np.asarray(returns, np.float64)
    variance = np.full(returns.shape, np.nan)
    for report in range(window - 1, len(returns)):
        last = returns[report + 1 - window : report + 1]
        enough = np.sum(~np.isnan(last), axis=0) > 1
        variance[report, enough] = np.nanvar(last[:, enough], axis=0, ddof=1)
    return variance
