"""Statistics over seeds: what a handful of runs says about an algorithm.

The unit is the run (seed), never the episode: episodes of one run share their weights and are not
independent. NaN means "nothing measured yet", as for a seed that has not finished an episode.

Source: Agarwal et al., "Deep Reinforcement Learning at the Edge of the Statistical Precipice",
NeurIPS 2021, section 4 (interquartile mean, percentile bootstrap over runs).
"""

from collections.abc import Callable
from typing import TypedDict

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]


def interquartile_mean(x: ArrayLike, axis: int = -1) -> FloatArray:
    """Mean of the middle half along `axis`: `n // 4` values are cut off at each end.

    As `scipy.stats.trim_mean(x, 0.25, axis, nan_policy="omit")`. NaN is left out, so `n` counts
    the other values; where there are none the result is NaN.

    Args:
        x: any shape `[..., n, ...]`.
        axis: the axis of length `n`.

    Returns:
        float64 of the shape of `x` without `axis`.
    """
    ordered = np.sort(np.moveaxis(np.asarray(x, np.float64), axis, -1), axis=-1)  # NaN goes last
    count = np.sum(~np.isnan(ordered), axis=-1, keepdims=True)
    cut = count // 4
    rank = np.arange(ordered.shape[-1])
    middle = (cut <= rank) & (rank < count - cut)
    total = np.sum(ordered, axis=-1, where=middle)
    kept = np.sum(middle, axis=-1)
    return np.where(kept > 0, total / np.maximum(kept, 1), np.nan)[()]


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
