"""Learning curves of finished or running runs, read from their folders.

Here is also what all pictures share: their style, which is ``paper.mplstyle``, and how they are
written. None opens a window: figures are made through the object interface and go to a file.
"""

import io
import json
import operator
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import BadZipFile

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter
from numpy.typing import NDArray

from rlax_lab.errors import InputError
from rlax_lab.statistics import bootstrap_interval, interquartile_mean

# What each kind of file says about its own making, without the date: equal runs give equal files.
METADATA: dict[str, dict[str, str | None]] = {
    ".png": {},
    ".pdf": {"CreationDate": None},
    ".svg": {"Date": None},
}

STYLE = Path(__file__).with_name("paper.mplstyle")
_CYCLE = matplotlib.rc_params_from_file(STYLE)["axes.prop_cycle"].by_key()
# Of the line at which the environment counts as solved.
THRESHOLD: dict[str, Any] = {"color": "0.35", "linewidth": 1, "linestyle": "--"}
COLORS: tuple[str, ...] = tuple(_CYCLE["color"])
DASHES: tuple[Any, ...] = tuple(_CYCLE["linestyle"])


@contextmanager
def style() -> Iterator[None]:
    """The style of all pictures, whatever the user's own: a decorator of what makes one.

    Lines that are given a colour need a line style too, else they take the cycle's.
    """
    with matplotlib.rc_context(fname=STYLE):
        yield


def look(index: int) -> dict[str, Any]:
    """Colour and line style of a line; both together repeat only after 49."""
    round_ = index // len(COLORS)
    return {
        "color": COLORS[index % len(COLORS)],
        "linestyle": DASHES[(index + round_) % len(DASHES)],
    }


def save(figure: Figure, out: Path) -> Path:
    """Writes a figure, the same bytes every time; returns `out`.

    Raises:
        InputError: the suffix of `out` is none of `METADATA`'s, or it cannot be written.
    """
    check_suffix(out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(out, metadata=METADATA[out.suffix.lower()])
    except OSError as error:
        raise InputError(f"Cannot write {out}: {error.strerror}.") from error
    return out


def check_suffix(out: Path) -> None:
    """Before a picture is drawn that could not be written."""
    if out.suffix.lower() not in METADATA:
        form = f"as {out.suffix!r}" if out.suffix else "without a suffix"
        raise InputError(f"A figure cannot be written {form}; use {', '.join(METADATA)}.")


class Curve(NamedTuple):
    """What one run reported: `R` reports of `S` seeds, NaN where a seed had nothing to report."""

    label: str  # the folder's name
    steps: NDArray[np.int64]  # [R], environment steps per seed, ascending
    returns: NDArray[np.float64]  # [R, S], of the greedy policy if `evaluated`, else of training
    episode_returns: NDArray[np.float64]  # [R, S], of training
    threshold: float | None  # the return at which the environment counts as solved
    env: str
    algo: str
    evaluated: bool
    # [R, S], training episodes ended so far, NaN where that was not kept. What filled a replay
    # buffer before the first update does not count.
    episodes: NDArray[np.float64]


class _Record(NamedTuple):
    """One line of `metrics.jsonl`, as far as a curve needs it."""

    env_steps: np.int64
    seed: int
    episode_return: float
    eval_return: float
    has_eval: bool
    episodes: float  # since the report before
    trial: int | None  # of a sweep


def read_curve(run: Path, trial: int | None = None) -> Curve:
    """Read the learning curve of a run folder from its `metrics.jsonl` and `config.json`.

    Of a sweep's folder it is the curve of one `trial`.

    A last line cut short, as a killed run leaves it, is ignored. Of two lines for the same seed and
    step count, as a resumed run leaves them, the later one counts.

    Raises:
        InputError: the folder or a file is missing, nothing is reported yet, or a line is
            malformed.
    """
    if not run.is_dir():
        raise InputError(f"There is no run folder {run}.")
    path = run / "config.json"
    text = _read(path)
    try:
        config = json.loads(text)
        env, algo, seeds = str(config["env"]), str(config["algo"]), operator.index(config["seeds"])
        threshold = None if config["threshold"] is None else float(config["threshold"])
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise InputError(
            f"{path} is not a JSON object with algo, env, seeds and threshold."
        ) from error
    if trial is None and "trials" in config:
        raise InputError(f"{run} holds a sweep, not one run.")
    lines = [line for line in _read_records(run / "metrics.jsonl", seeds) if line.trial == trial]
    if not lines:
        raise InputError(f"{run} holds no trial {trial}.")

    env_steps, seed, episode_return, eval_return, has_eval, ended, _ = zip(*lines, strict=True)
    steps, report = np.unique(np.array(env_steps, np.int64), return_inverse=True)
    episode_returns, eval_returns, episodes = np.full((3, len(steps), seeds), np.nan)
    episode_returns[report, seed] = episode_return
    eval_returns[report, seed] = eval_return
    episodes[report, seed] = ended
    evaluated = all(has_eval) and not np.all(np.isnan(eval_returns))
    return Curve(
        label=run.resolve().name,
        steps=steps,
        returns=eval_returns if evaluated else episode_returns,
        episode_returns=episode_returns,
        threshold=threshold,
        env=env,
        algo=algo,
        evaluated=evaluated,
        episodes=np.cumsum(episodes, axis=0),
    )


def read_result(path: Path, label: str = "") -> Curve:
    """Read the learning curve that ``NAME.npz`` and ``NAME.json`` keep, as of `benchmarks.curves`.

    Args:
        path: either of the two.
        label: the curve's, else NAME.

    Raises:
        InputError: one of them is missing or malformed.
    """
    path, summary = path.with_suffix(".npz"), path.with_suffix(".json")
    text, data = _read(summary), _read(path)
    try:
        result = json.loads(text)
        threshold = result["steps_to_threshold"]["threshold"]
        with np.load(io.BytesIO(data)) as arrays:
            unknown = np.full(arrays["returns"].shape, np.nan)
            return Curve(
                label=label or path.stem,
                threshold=threshold,
                env=result["env"],
                algo=result["algo"],
                evaluated=True,
                **{"episodes": unknown, **arrays},
            )
    except (KeyError, TypeError, ValueError, BadZipFile) as error:
        raise InputError(f"{path} and {summary.name} are not the result of a run.") from error


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"Cannot read {path}: {error.strerror}.") from error


def _read_records(path: Path, seeds: int) -> list[_Record]:
    lines = _read(path).split(b"\n")
    if not _is_json(lines[-1]):  # cut short, or empty because the line before it was ended
        lines.pop()
    if not lines:
        raise InputError(f"{path} holds no report yet.")
    records = []
    for number, line in enumerate(lines, start=1):
        try:
            records.append(_parse(line, seeds))
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise InputError(
                f"{path}, line {number}, is not a JSON object with env_steps, a seed below {seeds} "
                "and an episode_return."
            ) from error
    return records


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


def _parse(line: bytes, seeds: int) -> _Record:
    def number(value: float | None) -> float:
        return np.nan if value is None else float(value)

    record = json.loads(line)
    seed = operator.index(record["seed"])
    if seed not in range(seeds):
        raise ValueError(f"seed {seed}")
    return _Record(
        env_steps=np.int64(operator.index(record["env_steps"])),
        seed=seed,
        episode_return=number(record["episode_return"]),
        eval_return=number(record.get("eval_return")),
        has_eval="eval_return" in record,
        episodes=number(record.get("episodes")),
        trial=record.get("trial"),
    )


def learning_curves(runs: Sequence[Path], out: Path) -> Path:
    """Draw the learning curves of run folders in one figure, as `draw` does.

    Args:
        runs: run folders, at least one; their reports need not be at the same steps.
        out: as of `draw`.

    Returns:
        `out`.

    Raises:
        InputError: as `draw`, or where a run cannot be read.
    """
    return draw([read_curve(run) for run in runs], out)


@style()
def draw(curves: Sequence[Curve], out: Path) -> Path:
    """Draw learning curves in one figure and write it to `out`.

    Each curve is its interquartile mean over seeds with a 95 % bootstrap band; a single one also
    shows its seeds as thin lines. If any run was not evaluated, all are drawn by their training
    return, so that like is compared with like.

    Args:
        curves: at least one; their reports need not be at the same steps.
        out: `.png` (150 dpi), `.pdf` or `.svg`; its folder is made.

    Returns:
        `out`.

    Raises:
        InputError: the suffix of `out` is another one, `curves` is empty, or one of them has no
            return to show.
    """
    check_suffix(out)
    if not curves:
        raise InputError("Learning curves need at least one run folder.")
    curves = comparable(curves)
    thresholds = sorted({(c.env, c.threshold) for c in curves if c.threshold is not None})
    figure = Figure()
    axes = figure.add_subplot()
    for index, curve in enumerate(curves):
        draw_curve(axes, curve, index, each_seed=len(curves) == 1)
    for env, threshold in thresholds:
        label = wrap(f"threshold {threshold:g} ({env})")
        axes.axhline(threshold, **THRESHOLD, label=label)

    axes.set_title(wrap(", ".join(sorted({curve.env for curve in curves}))))
    axes.autoscale_view()  # a threshold near the edge does not ask for its margin by itself
    over_steps(axes)
    axes.set_ylabel(measure(curves))
    # The legend stands below the axes, never on the data; every line of it makes the figure taller.
    legend = figure.legend(loc="outside lower center", handlelength=4)
    legend_lines = sum(1 + text.get_text().count("\n") for text in legend.get_texts())
    figure.set_size_inches(6.4, 4.2 + 0.2 * legend_lines)

    return save(figure, out)


def comparable(curves: Sequence[Curve]) -> list[Curve]:
    """The same curves, all by their training return if any was not evaluated.

    Raises:
        InputError: one of them has no return to show.
    """
    if not all(curve.evaluated for curve in curves):
        curves = [
            curve._replace(returns=curve.episode_returns, evaluated=False) for curve in curves
        ]
    for curve in curves:
        if np.all(np.isnan(curve.returns)):
            raise InputError(
                f"The run {curve.label} has no return to draw: no episode has ended yet."
            )
    return list(curves)


def draw_curve(axes: Axes, curve: Curve, index: int, each_seed: bool = False) -> None:
    """The interquartile mean over seeds with its band, in the look of `index`."""
    line = look(index)
    seeds = curve.returns.shape[1]
    drawn = ~np.all(np.isnan(curve.returns), axis=1)  # a gap would break the line
    steps, returns = curve.steps[drawn], curve.returns[drawn]
    low, high = bootstrap_interval(returns)
    axes.fill_between(steps, low, high, color=line["color"], alpha=0.2, linewidth=0)
    if each_seed:
        for seed_returns in returns.T:
            seen = ~np.isnan(seed_returns)
            axes.plot(steps[seen], seed_returns[seen], **line, alpha=0.35, linewidth=0.6)
    axes.plot(
        steps,
        interquartile_mean(returns),
        **line,
        marker="o" if len(steps) == 1 else "",  # a line through one point is invisible
        label=wrap(f"{curve.algo}: {curve.label} ({seeds} {'seed' if seeds == 1 else 'seeds'})"),
    )


def over_steps(axes: Axes) -> None:
    """A horizontal axis of environment steps."""
    axes.set_xlim(left=0)
    axes.set_xlabel("environment steps (per seed)")
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))


def measure(curves: Sequence[Curve]) -> str:
    """What `comparable` curves show."""
    seeds = {curve.returns.shape[1] for curve in curves}
    shown = "evaluation return (greedy policy)" if curves[0].evaluated else "training return"
    if seeds == {1}:
        return shown
    of = f"of {seeds.pop()} seeds" if len(seeds) == 1 else "over seeds"
    return f"{shown},\nIQM {of}, 95 % interval"


def wrap(label: str) -> str:
    """In lines that fit beside a legend's."""
    return textwrap.fill(label, width=56)
