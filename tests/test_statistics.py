"""Statistics over seeds, against scipy, rliable, pandas, known distributions and symmetries."""

import json
from random import Random

import numpy as np
import pandas as pd
import pytest
import rliable.library
import rliable.metrics
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import ArrayLike

from rlax_lab.statistics import (
    bootstrap_interval,
    interquartile_mean,
    iqm,
    median,
    optimality_gap,
    performance_profile,
    probability_of_improvement,
    rolling_variance,
    sample_efficiency,
    steps_to_threshold,
    stratified_interval,
    summarize,
)

# Integers up to 2^20 keep sums exact, so that the properties hold to the last few bits.
NUMBERS = st.integers(-(2**20), 2**20).map(float)
TABLES = arrays(np.float64, array_shapes(min_dims=1, max_dims=3, max_side=9), elements=NUMBERS)
SEEDS = arrays(np.float64, st.integers(1, 12), elements=NUMBERS)
# Few values, so that there are ties.
SCORES = st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 5)).flatmap(
    lambda n: st.tuples(
        *(
            arrays(np.float64, (runs, n[2]), elements=st.integers(-3, 3).map(float))
            for runs in n[:2]
        )
    )
)

quick = settings(max_examples=50, deadline=None)  # no deadline: a busy machine is no error
quicker = settings(quick, max_examples=20)


@pytest.mark.parametrize("runs", range(1, 14))
def test_interquartile_mean_is_scipys_trimmed_mean(runs: int) -> None:
    x = np.random.default_rng(runs).standard_cauchy((3, runs, 2))
    expected = scipy.stats.trim_mean(x, 0.25, axis=1)
    np.testing.assert_allclose(interquartile_mean(x, axis=1), expected, rtol=1e-12, atol=1e-12)


def test_interquartile_mean_leaves_nan_out_as_scipy_does() -> None:
    generator = np.random.default_rng(0)
    x = np.where(generator.random((40, 12)) < 0.4, np.nan, generator.normal(size=(40, 12)))
    expected = scipy.stats.trim_mean(x, 0.25, axis=-1, nan_policy="omit")
    np.testing.assert_allclose(interquartile_mean(x), expected, rtol=1e-12, atol=1e-12)


def test_interquartile_mean_takes_integers_and_gives_float64() -> None:
    result = interquartile_mean([[0, 1, 2, 1000], [4, 4, 4, 4]])
    assert result.dtype == np.float64
    np.testing.assert_array_equal(result, [1.5, 4.0])


def test_interquartile_mean_of_nothing_is_nan() -> None:
    np.testing.assert_array_equal(
        interquartile_mean([[np.nan, np.nan], [np.nan, 3.0]]), [np.nan, 3.0]
    )
    assert np.isnan(interquartile_mean([]))


@quick
@given(SEEDS, st.randoms(use_true_random=False))
def test_interquartile_mean_ignores_the_order_of_seeds(x: np.ndarray, random: Random) -> None:
    shuffled = random.sample(list(x), len(x))
    assert interquartile_mean(shuffled) == interquartile_mean(x)


@quick
@given(TABLES, st.integers(-64, 64), st.integers(-1000, 1000))
def test_interquartile_mean_follows_scale_and_shift(x: np.ndarray, scale: int, shift: int) -> None:
    expected = scale * interquartile_mean(x) + shift
    np.testing.assert_allclose(
        interquartile_mean(scale * x + shift), expected, rtol=1e-9, atol=1e-6
    )


@quick
@given(TABLES)
def test_interquartile_mean_lies_between_the_extremes(x: np.ndarray) -> None:
    mean = interquartile_mean(x)
    assert np.all((x.min(-1) <= mean + 1e-6) & (mean - 1e-6 <= x.max(-1)))


@pytest.mark.parametrize("runs", [5, 20])
def test_bootstrap_interval_agrees_with_scipys(runs: int) -> None:
    """Both are Monte Carlo estimates of the same two quantiles.

    With a nearly normal bootstrap distribution of deviation s, the 2.5 % quantile of n resamples
    has the standard error sqrt(p (1 - p) / n) / density = 2.7 s / sqrt(n), and the difference of
    two such sqrt(2) times that. Five of these standard errors are allowed.
    """
    values = np.random.default_rng(runs).gamma(2.0, size=runs)
    resamples = 10_000
    ours = bootstrap_interval(values, resamples=resamples)
    scipys = scipy.stats.bootstrap(
        (values,),
        lambda x, axis: scipy.stats.trim_mean(x, 0.25, axis=axis),
        n_resamples=resamples,
        method="percentile",
        rng=np.random.default_rng(1),
    )
    tolerance = 5 * np.sqrt(2) * 2.7 * scipys.standard_error / np.sqrt(resamples)
    np.testing.assert_allclose(ours, scipys.confidence_interval, rtol=0, atol=tolerance)


@pytest.mark.parametrize("confidence", [0.5, 0.8, 0.95])
def test_bootstrap_interval_covers_the_true_value_as_often_as_it_says(confidence: float) -> None:
    """The interquartile mean of a normal distribution is its mean; 400 experiments of 40 runs.

    The count is binomial: four standard deviations, and 0.03 for the percentile interval's own
    narrowness at 40 runs.
    """
    experiments, truth = 400, 3.0
    values = np.random.default_rng(0).normal(truth, 2.0, (experiments, 40))
    low, high = bootstrap_interval(values, confidence=confidence, resamples=400)
    covered = np.mean((low <= truth) & (truth <= high))
    noise = 4 * np.sqrt(confidence * (1 - confidence) / experiments)
    assert confidence - 0.03 - noise <= covered <= confidence + noise


@quick
@given(SEEDS, st.integers(-64, 64), st.integers(-1000, 1000))
def test_bootstrap_interval_follows_scale_and_shift(x: np.ndarray, scale: int, shift: int) -> None:
    expected = np.sort(scale * np.array(bootstrap_interval(x, resamples=50)) + shift)
    result = bootstrap_interval(scale * x + shift, resamples=50)
    np.testing.assert_allclose(result, expected, rtol=1e-9, atol=1e-6)


@quick
@given(SEEDS, st.randoms(use_true_random=False))
def test_bootstrap_interval_lies_within_the_values(x: np.ndarray, random: Random) -> None:
    low, high = bootstrap_interval(x, resamples=50, seed=random.randrange(100))
    assert x.min() - 1e-6 <= low <= high <= x.max() + 1e-6


def test_bootstrap_interval_resamples_whole_runs() -> None:
    """Positions share the draws, so a position's interval does not depend on its neighbours."""
    curve = np.random.default_rng(0).normal(size=(4, 3, 7))
    low, high = bootstrap_interval(curve, resamples=100)
    assert low.shape == high.shape == (4, 3)
    for index in np.ndindex(4, 3):
        assert bootstrap_interval(curve[index], resamples=100) == (low[index], high[index])


def test_bootstrap_interval_of_another_statistic_and_seed() -> None:
    values = np.random.default_rng(0).normal(size=9)
    by_mean = bootstrap_interval(values, np.mean)
    assert by_mean == bootstrap_interval(values, np.mean)
    assert by_mean != bootstrap_interval(values)
    assert by_mean != bootstrap_interval(values, np.mean, seed=1)


def test_bootstrap_interval_of_one_run_is_its_value() -> None:
    low, high = bootstrap_interval([[1.5], [-2.0]])
    np.testing.assert_array_equal(low, [1.5, -2.0])
    np.testing.assert_array_equal(high, low)


def test_bootstrap_interval_of_missing_runs_uses_the_others() -> None:
    runs = np.random.default_rng(0).normal(size=6)
    values = np.full((4, 10), np.nan)
    values[1, 2], values[2, :6], values[3, 4:] = 7.0, runs, runs
    low, high = bootstrap_interval(values)
    assert np.all(np.isnan([low[0], high[0]]))
    assert low[1] == high[1] == 7.0
    assert (low[2], high[2]) == (low[3], high[3]) == bootstrap_interval(runs)


@pytest.mark.parametrize("values", [[], np.empty((0, 3)), np.empty((3, 0)), [np.nan, np.nan]])
def test_bootstrap_interval_needs_a_value(values: ArrayLike) -> None:
    with pytest.raises(ValueError, match="at least one run with a value that is not NaN"):
        bootstrap_interval(values)


def test_summarize_is_plain_json() -> None:
    summary = summarize(np.array([1.0, np.nan, 2.0, 3.0, 100.0], np.float32))
    low, high = bootstrap_interval([1.0, 2.0, 3.0, 100.0])
    assert json.loads(json.dumps(summary, allow_nan=False)) == {
        "iqm": 2.5,
        "mean": 26.5,
        "ci95": [low, high],
        "per_seed": [1.0, None, 2.0, 3.0, 100.0],
    }


def test_summarize_needs_a_value() -> None:
    with pytest.raises(ValueError, match="at least one run"):
        summarize([np.nan])


def test_steps_to_threshold_is_the_first_report_at_or_above() -> None:
    returns = [
        [1.0, 0.0, np.nan, 0.0],
        [0.0, 0.9, np.nan, 0.0],
        [2.0, 1.0, 1.1, 0.99],
    ]
    result = steps_to_threshold(np.array([100, 200, 2**40]), returns, 1.0)
    assert result == [100, 2**40, 2**40, None]
    assert all(steps is None or type(steps) is int for steps in result)


def test_steps_to_threshold_without_reports_is_never() -> None:
    assert steps_to_threshold([], np.empty((0, 2)), 0.0) == [None, None]


def test_interquartile_mean_over_two_axes_is_that_of_all_their_values() -> None:
    x = np.random.default_rng(0).normal(size=(3, 5, 2))
    expected = [scipy.stats.trim_mean(x[:, i], 0.25, axis=None) for i in range(5)]
    np.testing.assert_allclose(interquartile_mean(x, axis=(0, 2)), expected, rtol=1e-12)
    assert interquartile_mean(np.empty((4, 0, 0)), axis=(1, 2)).shape == (4,)


@quicker
@given(SCORES)
def test_aggregates_are_rliables(pair: tuple[np.ndarray, np.ndarray]) -> None:
    scores, others = pair
    metrics, taus = rliable.metrics, np.linspace(-4, 4, 9)
    for ours, theirs in (
        (iqm(scores), metrics.aggregate_iqm(scores)),
        (median(scores), metrics.aggregate_median(scores)),
        (optimality_gap(scores), metrics.aggregate_optimality_gap(scores)),
        (optimality_gap(scores, -1.5), metrics.aggregate_optimality_gap(scores, -1.5)),
        (performance_profile(scores, taus), rliable.library.score_distributions(scores, taus)),
        (
            probability_of_improvement(scores, others),
            metrics.probability_of_improvement(scores, others),
        ),
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-12)


@quicker
@given(SCORES)
def test_one_of_two_improves_on_the_other(pair: tuple[np.ndarray, np.ndarray]) -> None:
    scores, others = pair
    there = probability_of_improvement(scores, others)
    assert there + probability_of_improvement(others, scores) == pytest.approx(1, abs=1e-12)
    assert probability_of_improvement(scores, scores) == pytest.approx(0.5, abs=1e-12)
    assert probability_of_improvement(scores + 7, others) == 1


@quicker
@given(SCORES)
def test_aggregates_keep_the_axes_before_runs_and_tasks(pair: tuple[np.ndarray, ...]) -> None:
    scores, others = pair
    for statistic in (iqm, median, optimality_gap, lambda x: performance_profile(x, [0.0, 1.0])):
        both = statistic(np.stack([scores, scores + 1]))
        np.testing.assert_allclose(both, [statistic(scores), statistic(scores + 1)], atol=1e-12)
    both = probability_of_improvement(np.stack([scores, scores + 1]), others)
    alone = [probability_of_improvement(own, others) for own in (scores, scores + 1)]
    np.testing.assert_allclose(both, alone, atol=1e-12)


@pytest.mark.parametrize("scores", [[1.0], np.empty((0, 2)), [[1.0, np.nan]]])
def test_aggregates_need_runs_of_tasks_without_nan(scores: ArrayLike) -> None:
    with pytest.raises(
        ValueError, match=r"must be \[..., runs, tasks\], at least one and none NaN"
    ):
        iqm(scores)


@pytest.mark.parametrize("name", ["iqm", "median", "gap", "profile", "improvement"])
def test_stratified_interval_agrees_with_rliables(name: str) -> None:
    """Two Monte Carlo estimates of the same quantiles.

    Each end is the order statistic whose rank is binomial: of n resamples that of the 2.5 %
    quantile lies within 5 sqrt(n 0.025 0.975) of 0.025 n, with a chance of one in a million, and
    the difference of two within sqrt(2) times that. So each end of ours must lie between the two
    quantiles of theirs that are so far to either side. (Theirs of the probability of improvement
    finds a p-value for every resample, which takes minutes: here it counts pairs.)
    """
    resamples, taus = 2000, np.array([0.4, 1.0])
    generator = np.random.default_rng(0)
    scale = np.array([1.0, 10.0, 0.1])  # were tasks mixed, intervals would be far wider
    scores, others = (generator.gamma(2.0, size=(runs, 3)) * scale for runs in (7, 5))
    metrics = rliable.metrics
    ours, theirs, arguments = {
        "iqm": (iqm, metrics.aggregate_iqm, (scores,)),
        "median": (median, metrics.aggregate_median, (scores,)),
        "gap": (optimality_gap, metrics.aggregate_optimality_gap, (scores,)),
        "profile": (
            lambda x: performance_profile(x, taus),
            lambda x: rliable.library.score_distributions(x, taus),
            (scores,),
        ),
        "improvement": (
            probability_of_improvement,
            lambda x, y: np.mean(x[:, None] > y),
            (scores, others),
        ),
    }[name]
    result = np.array(stratified_interval(ours, *arguments, resamples=resamples))

    np.random.seed(0)  # noqa: NPY002 - rliable draws from NumPy's global state
    library = rliable.library
    bootstrap = (
        library.StratifiedBootstrap
        if len(arguments) == 1
        else (library.StratifiedIndependentBootstrap)
    )
    drawn = np.array([theirs(*x) for x, _ in bootstrap(*arguments).bootstrap(resamples)])
    slack = 5 * np.sqrt(2 * 0.025 * 0.975 / resamples)
    for end, level in zip(result, (0.025, 0.975), strict=True):
        low, high = np.quantile(drawn, np.clip([level - slack, level + slack], 0, 1), axis=0)
        assert np.all((low - 1e-9 <= end) & (end <= high + 1e-9))
    assert np.all(result[0] < result[1])


def test_stratified_interval_of_one_task_is_the_bootstrap_interval() -> None:
    scores = np.random.default_rng(0).normal(size=(4, 9))
    for own, low, high in zip(scores, *bootstrap_interval(scores), strict=True):
        assert stratified_interval(iqm, own[:, None]) == (low, high)


def test_sample_efficiency_is_the_interval_at_every_evaluation() -> None:
    scores = np.random.default_rng(0).normal(size=(4, 6, 3))
    middle, low, high = sample_efficiency(scores, resamples=200)
    for report, own in enumerate(scores):
        assert middle[report] == pytest.approx(rliable.metrics.aggregate_iqm(own), rel=1e-12)
        ends = stratified_interval(iqm, own, resamples=200)
        assert (low[report], high[report]) == ends
    assert middle.shape == (4,)


@quick
@given(
    arrays(
        np.float64,
        st.tuples(st.integers(1, 12), st.integers(1, 3)),
        elements=st.one_of(NUMBERS, st.just(np.nan)),
    ),
    st.integers(2, 5),
)
def test_rolling_variance_is_pandas(returns: np.ndarray, window: int) -> None:
    expected = pd.DataFrame(returns).rolling(window, min_periods=2).var().to_numpy()
    expected[: window - 1] = np.nan
    np.testing.assert_allclose(rolling_variance(returns, window), expected, rtol=1e-6, atol=1e-3)
