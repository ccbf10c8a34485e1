"""Runs on one environment side by side: what each reached, how soon, how surely, in one picture.

The folder of a comparison holds ``dashboard.pdf``, ``.svg`` and ``.png``, each panel alone as a
PDF, and the table of metrics as ``metrics.json`` and ``metrics.md``.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import EngFormatter
from numpy.typing import NDArray

from rlax_lab.checkpoint import check_new, write_json
from rlax_lab.config import configuration, setting
from rlax_lab.errors import InputError
from rlax_lab.plots import (
    THRESHOLD,
    Curve,
    comparable,
    draw_curve,
    look,
    measure,
    over_steps,
    read_curve,
    read_result,
    save,
    style,
    wrap,
)
from rlax_lab.progress import count
from rlax_lab.statistics import (
    bootstrap_interval,
    interquartile_mean,
    optimality_gap,
    probability_of_improvement,
    rolling_variance,
    steps_to_threshold,
    stratified_interval,
    summarize,
)

# Reports that a variance is taken over: a quarter of those that `benchmarks.curves` asks for.
WINDOW = 5
Part = Figure | SubFigure
_SOLVED: dict[str, Any] = {"marker": "*", "markersize": 13, "markeredgecolor": "white"}


@configuration
class Settings:
    """What runs are compared by."""

    threshold: float | None = setting(
        None, "the return that counts as solved; none for the environment's own"
    )


class Run(NamedTuple):
    """A curve, and what is known of it beside; S seeds, NaN where a seed never solved it."""

    curve: Curve
    steps: NDArray[np.float64]  # [S], environment steps until the environment was solved
    episodes: NDArray[np.float64]  # [S], training episodes until then, NaN also where not kept
    metrics: dict[str, Any]


def compare(paths: Sequence[Path], out: Path, settings: Settings) -> str:
    """Compares runs, and writes pictures and metrics to `out`; returns the table as text.

    Args:
        paths: run folders, or results as `plots.read_result` takes them.
        out: a folder, new or empty.
        settings: see there.

    Raises:
        InputError: a run cannot be read or is given twice, they are of several environments or
            thresholds, or `out` cannot be written.
    """
    check_new(out)
    runs = assess(read(paths), settings.threshold)
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_json(out / "metrics.json", [run.metrics for run in runs])
        (out / "metrics.md").write_text(markdown(table(runs)))
    except OSError as error:
        raise InputError(f"Cannot write {error.filename}: {error.strerror}.") from error
    draw(runs, out)
    return plain(table(runs))


def read(paths: Sequence[Path]) -> list[Curve]:
    """The curves of runs on one environment, under names that differ.

    Raises:
        InputError: as `compare`.
    """
    curves = [
        read_result(path) if path.suffix in (".json", ".npz") else read_curve(path)
        for path in paths
    ]
    for index, path in enumerate(paths):
        if path.resolve() in [other.resolve() for other in paths[:index]]:
            raise InputError(f"The run {path} is given twice.")
    first = curves[0]
    for curve in curves:
        if curve.env != first.env:
            raise InputError(
                f"Runs are compared on one environment, but {first.label} is of {first.env} and "
                f"{curve.label} of {curve.env}."
            )
    names = [curve.label for curve in curves]
    return comparable(
        [
            curve._replace(label=str(path)) if names.count(curve.label) > 1 else curve
            for path, curve in zip(paths, curves, strict=True)
        ]
    )


def assess(curves: Sequence[Curve], threshold: float | None = None) -> list[Run]:
    """What runs reached, the others beside the first.

    Args:
        curves: `comparable`, of one environment.
        threshold: the return that counts as solved, else that of the curves.

    Raises:
        InputError: they have several thresholds, and none is given.
    """
    if threshold is None:
        known = {curve.threshold for curve in curves}
        if len(known) > 1:
            raise InputError(
                "These runs have different thresholds, "
                f"{', '.join(sorted(map(str, known)))}; --threshold says which to take."
            )
        (threshold,) = known
    runs: list[Run] = []
    for curve in (curve._replace(threshold=threshold) for curve in curves):
        steps, episodes = _solved(curve)
        final, first = _final(curve), _final(runs[0].curve if runs else curve)
        variance = rolling_variance(curve.returns, WINDOW)[-1]
        known_variance = not np.all(np.isnan(variance))
        metrics = {
            "run": curve.label,
            "algo": curve.algo,
            "env": curve.env,
            "seeds": curve.returns.shape[1],
            "env_steps": int(curve.steps[-1]),
            "evaluated": curve.evaluated,
            "final_return": {**summarize(final), "median": float(np.median(final))},
            "threshold": threshold,
            "gap_to_threshold": None if threshold is None else _gap(final, threshold),
            "steps_to_threshold": _until(steps),
            "episodes_to_threshold": _until(episodes),
            "variance": float(interquartile_mean(variance)) if known_variance else None,
            "improvement_over_first": _improvement(final, first) if runs else None,
        }
        runs.append(Run(curve, steps, episodes, metrics))
    return runs


def _final(curve: Curve) -> NDArray[np.float64]:
    """The last returns that there are ``[n]``, of the seeds that have one."""
    last = curve.returns[~np.all(np.isnan(curve.returns), axis=1)][-1]
    return last[~np.isnan(last)]


def _solved(curve: Curve) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Steps and episodes of each seed until its first return at or above the threshold ``[S]``."""
    steps, episodes = np.full((2, curve.returns.shape[1]), np.nan)
    if curve.threshold is not None:
        reports = range(len(curve.steps))
        for seed, at in enumerate(steps_to_threshold(reports, curve.returns, curve.threshold)):
            if at is not None:
                steps[seed], episodes[seed] = curve.steps[at], curve.episodes[at, seed]
    return steps, episodes


def _gap(final: NDArray[np.float64], threshold: float) -> float:
    return float(optimality_gap(final[:, None], threshold))


def _until(reached: NDArray[np.float64]) -> dict[str, Any]:
    """As JSON; the median counts seeds that never got there as the slowest, None if it is one."""
    median = float(np.median(np.where(np.isnan(reached), np.inf, reached)))
    return {
        "median": median if np.isfinite(median) else None,
        "per_seed": [None if np.isnan(value) else int(value) for value in reached],
    }


def _improvement(final: NDArray[np.float64], first: NDArray[np.float64]) -> dict[str, Any]:
    pair = final[:, None], first[:, None]
    low, high = stratified_interval(probability_of_improvement, *pair)
    return {
        "probability": float(probability_of_improvement(*pair)),
        "ci95": [float(low), float(high)],
    }


def table(runs: Sequence[Run]) -> list[list[str]]:
    """The metrics as text: a head, and a row of each run."""
    threshold = runs[0].curve.threshold
    head = ["run", "algo", "seeds", "steps", "final IQM [95 %]", "median", "variance"]
    if threshold is not None:
        head += [f"gap to {threshold:g}", "solved", "steps to solve", "episodes to solve"]
    return [[*head, "better than first"], *(_row(run.metrics) for run in runs)]


def _row(metrics: dict[str, Any]) -> list[str]:
    final, until = metrics["final_return"], metrics["steps_to_threshold"]
    low, high = final["ci95"]
    row = [metrics["run"], metrics["algo"], str(metrics["seeds"]), count(metrics["env_steps"])]
    row += [f"{final['iqm']:.1f} [{low:.1f}, {high:.1f}]", f"{final['median']:.1f}"]
    row.append("-" if metrics["variance"] is None else f"{metrics['variance']:.3g}")
    if metrics["threshold"] is not None:
        solved = sum(value is not None for value in until["per_seed"])
        row += [f"{metrics['gap_to_threshold']:.1f}", f"{solved} of {metrics['seeds']}"]
        for median in (until["median"], metrics["episodes_to_threshold"]["median"]):
            row.append("-" if median is None else count(median))
    better = metrics["improvement_over_first"]
    if better is None:
        return [*row, "-"]
    low, high = better["ci95"]
    return [*row, f"{better['probability']:.2f} [{low:.2f}, {high:.2f}]"]


def plain(rows: Sequence[Sequence[str]]) -> str:
    """A table in columns of equal width."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [rows[0], ["---"] * len(rows[0]), *rows[1:]]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


@style()
def draw(runs: Sequence[Run], out: Path) -> None:
    """Writes the dashboard, and each of its panels alone, into the folder `out`."""
    runs = [run._replace(curve=run.curve._replace(label=_short(run.curve.label))) for run in runs]
    rows = [[_short(row[0]), *row[1:]] for row in table(runs)]
    tall, low = 3.8 + 0.2 * len(runs), 0.4 + 0.28 * len(rows)
    figure = Figure((13, 2 * tall + low))
    parts: Any = figure.subfigures(3, 1, height_ratios=[tall, tall, low])
    places = [p for part in parts[:2] for p in part.subfigures(1, 2, width_ratios=[1.5, 1])]
    for (name, panel), place in zip(PANELS.items(), places, strict=True):
        place.suptitle(name.replace("_", " "), fontweight="bold")
        panel(place, runs)
        alone = Figure((6.4, tall))
        panel(alone, runs)
        save(alone, out / f"{name}.pdf")
    _table(parts[2], rows)
    figure.suptitle(runs[0].curve.env, fontsize="x-large")
    for suffix in (".pdf", ".svg", ".png"):
        save(figure, out / f"dashboard{suffix}")


def _curves(figure: Part, runs: Sequence[Run]) -> None:
    """Training curves, the threshold, and where the interquartile mean first is above it."""
    axes = figure.add_subplot()
    threshold = runs[0].curve.threshold
    for index, (curve, *_) in enumerate(runs):
        draw_curve(axes, curve, index)
        middle = interquartile_mean(curve.returns)
        if threshold is not None and np.any(middle >= threshold):
            at = np.argmax(middle >= threshold)
            color = look(index)["color"]
            axes.plot(curve.steps[at], middle[at], color=color, linestyle="", zorder=3, **_SOLVED)
    if threshold is not None:
        axes.axhline(threshold, **THRESHOLD, label=f"threshold {threshold:g}")
        axes.plot([], [], color="0.35", linestyle="", label="solved (IQM)", **_SOLVED)
    axes.autoscale_view()
    over_steps(axes)
    axes.set_ylabel(measure([run.curve for run in runs]))
    _legend(figure, axes)


def _finals(figure: Part, runs: Sequence[Run]) -> None:
    """Bars of the last returns, with intervals."""
    axes = figure.add_subplot()
    for index, run in enumerate(runs):
        final, color = run.metrics["final_return"], look(index)["color"]
        axes.barh(index, final["iqm"], height=0.6, color=color, alpha=0.45, edgecolor=color)
        axes.plot(final["ci95"], [index] * 2, color="0.1", linestyle="-", marker="|", markersize=9)
    if runs[0].curve.threshold is not None:
        axes.axvline(runs[0].curve.threshold, **THRESHOLD)
    axes.set_xlabel("final return, IQM with 95 % interval")
    _names(axes, [run.curve.label for run in runs])


def _efficiency(figure: Part, runs: Sequence[Run]) -> None:
    """Steps and, where they were kept, episodes that each seed took to the threshold."""
    kinds = {"environment steps until solved": [run.steps for run in runs]}
    if any(not np.all(np.isnan(run.episodes)) for run in runs):
        kinds["training episodes until solved"] = [run.episodes for run in runs]
    grid = figure.subplots(1, len(kinds), sharey=True, squeeze=False)[0]
    for axes, (label, reached) in zip(grid, kinds.items(), strict=True):
        for index, until in enumerate(reached):
            color, median = look(index)["color"], _until(until)["median"]
            heights = index + np.linspace(-0.2, 0.2, len(until))
            axes.plot(until, heights, "o", color=color, alpha=0.5, markersize=5)
            if median is not None:
                place = [index - 0.3, index + 0.3]
                axes.plot([median] * 2, place, color=color, linestyle="-", linewidth=3)
            if np.all(np.isnan(until)) and not np.all(np.isnan(runs[index].steps)):
                beside = axes.get_yaxis_transform()
                axes.text(0.03, index, "not kept", transform=beside, va="center", color="0.4")
        axes.set_xlabel(f"{label}:\nseeds, and their median")
        axes.set_xlim(left=0)
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    solved = [f"{np.sum(~np.isnan(run.steps))} of {len(run.steps)} solved" for run in runs]
    if runs[0].curve.threshold is None:
        solved = ["no threshold"] * len(runs)
    for axes in grid:
        _names(axes, [run.curve.label for run in runs], solved)


def _stability(figure: Part, runs: Sequence[Run]) -> None:
    """The variance of each seed's last returns, on a logarithmic axis that has a zero."""
    axes = figure.add_subplot()
    shown: list[float] = []
    for index, (curve, *_) in enumerate(runs):
        variance = rolling_variance(curve.returns, WINDOW)
        there = ~np.all(np.isnan(variance), axis=1)
        if there.any():
            steps, variance = curve.steps[there], variance[there]
            low, high = bootstrap_interval(variance)
            middle = interquartile_mean(variance)
            line = look(index)
            axes.fill_between(steps, low, high, color=line["color"], alpha=0.2, linewidth=0)
            marker = "o" if len(steps) == 1 else ""  # a line through one point is invisible
            axes.plot(steps, middle, **line, marker=marker, label=wrap(curve.label))
            shown += [*middle, *high]
    if shown and max(shown) > 0:
        # What is a millionth of the most is nothing but rounding.
        least = max(min(x for x in shown if x > 0), 1e-6 * max(shown))
        axes.set_yscale("symlog", linthresh=10 ** np.floor(np.log10(least)), linscale=0.5)
        axes.set_ylim(bottom=0)
    over_steps(axes)
    axes.set_ylabel(f"variance of {WINDOW} returns in a row,\nIQM over seeds, 95 % interval")
    if not shown:
        text = f"fewer than {WINDOW} reports"
        axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", color="0.4")
    elif isinstance(figure, Figure):  # the dashboard has one legend
        _legend(figure, axes)


PANELS = {
    "learning_curves": _curves,
    "final_returns": _finals,
    "sample_efficiency": _efficiency,
    "stability": _stability,
}


def _legend(figure: Part, axes: Axes) -> None:
    """Below everything, in two columns where they have room."""
    longest = max(map(len, axes.get_legend_handles_labels()[1]), default=0)
    inches = figure.bbox.width / figure.dpi
    columns = 2 if 2 * longest < 9.4 * inches else 1
    figure.legend(loc="outside lower center", ncols=columns, handlelength=4)


def _names(axes: Axes, names: Sequence[str], notes: Sequence[str] = ()) -> None:
    """A row of each run, with its name and what else there is to say of it."""
    labels = [f"{a}\n{b}" for a, b in zip(names, notes, strict=True)] if notes else names
    axes.set_yticks(range(len(names)), labels)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.grid(False, axis="y")
    axes.tick_params(axis="y", length=0)


def _short(name: str, length: int = 30) -> str:
    """A name without its middle, where it is long."""
    half = length // 2
    return name if len(name) <= length else f"{name[:half]}…{name[-half + 1 :]}"


def _table(figure: Part, rows: Sequence[Sequence[str]]) -> None:
    axes = figure.add_subplot()
    axes.set_axis_off()
    head, *cells = rows
    drawn = axes.table(
        cells, colLabels=head, loc="center", cellLoc="left", colLoc="left", edges="horizontal"
    )
    drawn.auto_set_font_size(False)
    drawn.set_fontsize(9)
    drawn.auto_set_column_width(range(len(head)))
    drawn.scale(1, 1.4)
