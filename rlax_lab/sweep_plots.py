"""Pictures of a sweep: a heat map, parallel coordinates, or the schedules of a population."""

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter
from numpy.typing import NDArray

from rlax_lab.plots import COLORS, save, style
from rlax_lab.population import Range, Space

# Dark is good, also in grey; without the lightest, which is too faint on white.
MAP = ListedColormap(matplotlib.colormaps["viridis_r"](np.linspace(0.12, 1, 256)))
RETURN = "evaluation return"


@style()
def draw(summary: dict[str, Any], lines: list[dict[str, Any]], space: Space, out: Path) -> Path:
    """The picture that fits a sweep: of two lists a heat map, of a population its schedules, else
    parallel coordinates.

    Args:
      summary: as ``summary.json`` holds it.
      lines: those of ``metrics.jsonl``.
      space: what was searched over.
      out: the picture, which is returned.
    """
    if summary["method"] == "pbt":
        figure = schedules(summary["best"], lines, space)
    elif summary["method"] == "grid" and len(space) == 2:
        figure = heat_map(summary, space)
    else:
        figure = parallel_coordinates(summary, space)
    seeds = summary["seeds"]
    of = "one population" if summary["method"] == "pbt" else f"IQM of {seeds} seeds"
    figure.suptitle(f"{summary['algo']} on {summary['env']}, {of}", fontsize="medium")
    return save(figure, out)


def heat_map(summary: dict[str, Any], space: Space) -> Figure:
    """The return at every place of a grid of two fields, the best framed."""
    (down, rows), (across, columns) = space.items()
    shape = len(rows), len(columns)
    finals = [setting["final_return"] for setting in summary["settings"]]
    returns = _numbers([final["iqm"] for final in finals]).reshape(shape)
    figure = Figure((2 + 1.1 * shape[1], 1.6 + 0.7 * shape[0]))
    axes = figure.add_subplot()
    axes.grid(False)
    image = axes.imshow(returns, cmap=MAP, aspect="auto")
    figure.colorbar(image, label=RETURN)
    for index, final in enumerate(finals):
        place = divmod(index, shape[1])
        text, color = "no return", "0.4"
        if final["iqm"] is not None:
            low, high = final["ci95"]
            text = f"{final['iqm']:.3g}\n{low:.3g} to {high:.3g}"
            red, green, blue, _ = image.to_rgba(returns[place])
            color = "black" if 0.3 * red + 0.6 * green + 0.1 * blue > 0.5 else "white"
        axes.text(*place[::-1], text, ha="center", va="center", color=color, fontsize="small")
    row, column = divmod(summary["best"]["trial"], shape[1])
    frame = matplotlib.patches.Rectangle(
        (column - 0.5, row - 0.5), 1, 1, fill=False, edgecolor=COLORS[1], linewidth=3, clip_on=False
    )
    axes.add_patch(frame)
    for ticks, label, name, values in (
        (axes.set_yticks, axes.set_ylabel, down, rows),
        (axes.set_xticks, axes.set_xlabel, across, columns),
    ):
        ticks(range(len(values)), [f"{x:g}" for x in values])
        label(name)
    return figure


def parallel_coordinates(summary: dict[str, Any], space: Space) -> Figure:
    """A line for each setting through its values to its return; dark lines are good ones."""
    settings = summary["settings"]
    returns = _numbers([setting["final_return"]["iqm"] for setting in settings])
    low, high = np.nanmin(returns), np.nanmax(returns)
    scales = {name: _Scale(over) for name, over in space.items()}
    scales[RETURN] = _Scale(Range(low, high if high > low else low + 1))
    figure = Figure((2.2 + 1.6 * len(space), 4))
    axes = figure.add_subplot()
    places = range(len(scales))
    for index in np.argsort(np.nan_to_num(returns, nan=-np.inf)):  # the best on top
        setting, reached = settings[index], returns[index]
        values = [setting["values"][name] for name in space]
        heights = [scales[name].height(x) for name, x in zip(space, values, strict=True)]
        if np.isnan(reached):
            axes.plot(places[:-1], heights, color="0.6", linestyle=":", linewidth=1)
            axes.plot(places[-2], heights[-1], color="0.4", marker="x")
            continue
        height = scales[RETURN].height(reached)
        best = setting["trial"] == summary["best"]["trial"]
        axes.plot(
            places,
            [*heights, height],
            color=COLORS[1] if best else MAP(height),
            linestyle="-",
            linewidth=3 if best else 1.2,
            marker="o",
            markersize=5 if best else 3,
            clip_on=False,
        )
    for place, (name, scale) in enumerate(scales.items()):
        axes.plot([place, place], [0, 1], color="0.3", linestyle="-", linewidth=1, zorder=0)
        for x in scale.ticks():
            axes.annotate(
                f"{x:.3g}",
                (place, scale.height(x)),
                (-6, 0),
                textcoords="offset points",
                ha="right",
                va="center",
                fontsize="small",
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5, "alpha": 0.8},
            )
        axes.text(place, -0.06, name, ha="center", va="top")
    if np.isnan(returns).any():
        axes.plot([], [], color="0.6", linestyle=":", marker="x", label="no return")
    axes.plot([], [], color=COLORS[1], linestyle="-", linewidth=3, marker="o", label="best")
    figure.legend(loc="outside lower right", ncols=2)
    axes.set_xlim(-0.5, len(scales) - 0.8)
    axes.set_ylim(-0.15, 1.03)
    axes.set_axis_off()
    return figure


def schedules(best: dict[str, Any], lines: list[dict[str, Any]], space: Space) -> Figure:
    """Returns and values of the best member's population over its run, and of its ancestors."""
    lines = [line for line in lines if line["seed"] == best["seed"]]
    ancestors = {(point["env_steps"], point["trial"]) for point in best["schedule"]}
    ancestry = [line for line in lines if (line["env_steps"], line["trial"]) in ancestors]
    copied = [line for line in ancestry if line["parent"] != line["trial"]]
    names = {"eval_return": RETURN} | {name: name for name in space}
    figure = Figure((6.4, 1.2 + 1.7 * len(names)))
    for axes, (field, label) in zip(
        np.atleast_1d(figure.subplots(len(names), sharex=True)), names.items(), strict=True
    ):
        _points(axes, lines, field, color="0.65", marker=".", linestyle="", label="members")
        _points(
            axes,
            ancestry,
            field,
            color=COLORS[0],
            linestyle="-",
            linewidth=2,
            label="the best's ancestors",
        )
        _points(
            axes,
            copied,
            field,
            color=COLORS[1],
            marker="D",
            markersize=5,
            linestyle="",
            label="copied just before",
        )
        over = space.get(field)
        if isinstance(over, Range) and over.log:
            axes.set_yscale("log")
        axes.set_ylabel(label)
    axes.set_xlabel("environment steps of each member")
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.set_xlim(left=0)
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3)
    return figure


def _points(axes: Axes, lines: list[dict[str, Any]], field: str, **style: Any) -> None:
    steps = [line["env_steps"] for line in lines]
    axes.plot(steps, _numbers([line[field] for line in lines]), **style)


def _numbers(values: list[float | None]) -> NDArray[np.float64]:
    return np.array(values, np.float64)


class _Scale:
    """From values to heights between 0 and 1."""

    def __init__(self, over: Range | tuple[float, ...]) -> None:
        self.values = None if isinstance(over, Range) else over
        ends = over[:2] if isinstance(over, Range) else (min(over), max(over))
        # Lists over decades are meant as such.
        self.log = over.log if isinstance(over, Range) else ends[0] > 0 and ends[1] / ends[0] > 9
        self.low, self.high = self._inner(np.array(ends))
        if self.low == self.high:
            self.low, self.high = self.low - 1, self.high + 1

    def _inner(self, x: Any) -> Any:
        return np.log(x) if self.log else x

    def height(self, x: float) -> float:
        return float((self._inner(x) - self.low) / (self.high - self.low))

    def ticks(self) -> list[float]:
        """Values to write beside the axis."""
        if self.values is not None:
            return list(self.values)
        inner = np.linspace(self.low, self.high, 5)
        return list(np.exp(inner) if self.log else inner)
