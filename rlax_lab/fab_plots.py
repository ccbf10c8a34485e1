"""Pictures of a simulated fab: what its tools did, its lots, its use, its cycle times."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from rlax_lab.fab_runs import Result, Trace
from rlax_lab.plots import COLORS, look, save, style

SETUP, DOWN, IDLE, BAND = "#999999", "#4d4d4d", "#ededed", "#d5d5d5"
# A dash would be lost on so short a line: products beyond the seventh get colours between.
_MANY = "turbo"
# Changes of a line that can still be told apart, and stretches of time where there are more.
_POINTS = 1000
_BINS = 200
# Tools of a Gantt chart that can still be read.
_ROWS = 120
Floats = NDArray[np.float64]


@style()
def gantt(plan: Any, result: Result, out: Path) -> Path:
    """What each tool did in replication 0 in a stretch of time after the warm-up, or in all of it
    where it is short: operations by product, setups, downtimes.

    Raises:
      InputError: `out` cannot be written; so do all here.
    """
    trace, tools = result.trace, np.asarray(plan.instance.tools)
    rows = np.cumsum(tools.ravel()).reshape(tools.shape) - 1
    shown = min(int(tools.sum()), _ROWS)
    low, high = _stretch(trace, int(result.start[0]), int(tools.sum()))
    unit, name = _unit(plan, high - low)
    colors = _colors(len(plan.products))
    figure = Figure()
    axes = figure.add_subplot()
    first = np.append(rows[:, 0], rows.max() + 1)
    for g in range(0, len(rows), 2):
        axes.axhspan(first[g] - 0.5, first[g + 1] - 0.5, color="0.97", linewidth=0)

    def bars(group: Any, tool: Any, start: Any, end: Any, color: str, height: float) -> int:
        seen = (start < high) & (end > low) & (end > start)
        y = rows[group[seen], tool[seen]]
        x0, x1 = (np.clip(x[seen], low, high) / unit for x in (start, end))
        corners = [(x0, y - height), (x1, y - height), (x1, y + height), (x0, y + height)]
        shapes = np.stack([np.stack(corner, -1) for corner in corners], 1)
        axes.add_collection(
            PolyCollection(list(shapes), facecolor=color, edgecolor="white", linewidth=0.25)
        )
        return len(shapes)

    handles = []
    product = np.asarray(plan.instance.product)[trace.op]
    for p, color in enumerate(colors):
        mine = product == p
        where = (trace.group[mine], trace.tool[mine])
        if bars(*where, trace.setup_end[mine], trace.end[mine], color, 0.4):
            handles.append(Patch(facecolor=color, label=plan.products[p]))
    where = (trace.group, trace.tool)
    if bars(*where, trace.start, trace.setup_end, SETUP, 0.4):
        handles.append(Patch(facecolor=SETUP, label="setup"))
    downs = (trace.down_group, trace.down_tool, trace.down_start, trace.down_end)
    if bars(*downs, DOWN, 0.22):
        handles.append(Patch(facecolor=DOWN, label="down"))

    labels = [
        plan.groups[g] if tools[g].sum() == 1 else f"{plan.groups[g]} · {t + 1}"
        for g, t in zip(*np.nonzero(tools), strict=True)
    ]
    axes.set_yticks(range(shown), labels[:shown], fontsize=9 if shown <= 20 else 7)
    axes.tick_params(axis="y", length=0)
    axes.grid(False)
    axes.set_ylim(shown - 0.5, -0.5)
    axes.set_xlim(low / unit, high / unit)
    axes.set_xlabel(f"{name} since the start")
    more = f", the first {shown} of {tools.sum()} tools" if shown < tools.sum() else ""
    axes.set_title(f"{plan.name}, {result.rule}: replication 0{more}", fontsize=11)
    columns = _legend(figure, handles, width=120)
    lines = -(-len(handles) // columns)
    size = 0.22 if shown <= 20 else 0.155
    figure.set_size_inches(10, 1.5 + max(size * shown, 1.2) + 0.2 * lines)
    return save(figure, out)


@style()
def wip(plan: Any, results: Sequence[Result], out: Path) -> Path:
    """Lots in the fab over time in replication 0, and those of them that wait for a tool.

    One result is shown by product; several are compared. Where more happens than can be shown,
    means over equal stretches of time are, and for one result between which numbers it moved.
    """
    last = max(max(result.trace.last for result in results), 1)
    unit, name = _unit(plan, last)
    figure = Figure()
    above, below = figure.subplots(2, sharex=True)
    handles: list[Any] = []
    events = [_events(result.trace) for result in results]
    bins = _BINS if len(results) == 1 else _BINS // 3
    edges = np.linspace(0, last, bins + 1) if max(map(len, events)) > _POINTS else None
    for i, (result, ticks) in enumerate(zip(results, events, strict=True)):
        here, waits = lots_over_time(result.trace, ticks, len(plan.products))
        lots = np.concatenate([here, waits[None]])
        x = np.append(ticks, result.trace.last) / unit
        shown = lots
        if edges is not None:
            x, shown = edges / unit, _means(ticks, lots, edges)
        shown = np.concatenate([shown, shown[:, -1:]], axis=1)  # steps end with their last value
        if len(results) == 1:
            floor = np.zeros(len(x))
            for p, (layer, tint) in enumerate(zip(shown, _colors(len(here)), strict=False)):
                above.fill_between(x, floor, floor + layer, step="post", color=tint, linewidth=0)
                handles.append(Patch(facecolor=tint, label=plan.products[p]))
                floor = floor + layer
            below.step(x, shown[-1], where="post", color="0.15", linestyle="-", linewidth=1)
            if edges is not None:
                for axes, line in ((above, here.sum(0)), (below, waits)):
                    low, high = _extremes(ticks, line, edges)
                    axes.fill_between(x, low, high, step="post", color=BAND, lw=0, zorder=0.9)
                handles.append(Patch(facecolor=BAND, label="lowest to highest"))
            continue
        for axes, line in ((above, shown[:-1].sum(0)), (below, shown[-1])):
            axes.step(x, line, **look(i), linewidth=1, where="post")
        handles.append(Line2D([], [], **look(i), label=result.rule))
    above.set_ylabel("lots in the fab")
    below.set_ylabel("lots that wait for a tool")
    below.set_xlabel(f"{name} since the start")
    start = int(results[0].start[0])
    if start > 0:
        for axes in (above, below):
            axes.axvline(start / unit, color="0.35", linewidth=1, linestyle="--")
        handles.append(Line2D([], [], color="0.35", linestyle="--", label="end of the warm-up"))
    for axes in (above, below):
        low, high = axes.get_ylim()
        if len(results) == 1 or low < 0.5 * high:
            axes.set_ylim(0, max(high, 1))
        elif high - low < 2:  # as where work in process is constant
            axes.set_ylim(round(low) - 1, round(high) + 1)
        axes.set_xlim(0, last / unit)
        axes.yaxis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 5, 10], integer=True))
    rules = f", {results[0].rule}" if len(results) == 1 else ""
    means = ""
    if edges is not None:
        length, of = _unit(plan, float(edges[1]))
        means = f", means of {edges[1] / length:.3g} {of}"
    figure.suptitle(f"{plan.name}{rules}: replication 0{means}", fontsize=11)
    columns = _legend(figure, handles)
    figure.set_size_inches(8, 5.2 + 0.2 * -(-len(handles) // columns))
    return save(figure, out)


@style()
def utilisation(plan: Any, results: Sequence[Result], out: Path) -> Path:
    """What part of the tools' time each group processes, sets up, is down and idles: means over
    the replications. One panel for each result."""
    parts = {
        "processing": COLORS[0],
        "setup": COLORS[5],
        "down": DOWN,
        "idle": IDLE,
    }
    groups = len(plan.groups)
    across = min(len(results), 4)
    down = -(-len(results) // across)
    figure = Figure()
    grid = figure.subplots(down, across, sharey=True, sharex=True, squeeze=False)
    y = np.arange(groups)
    tools = np.asarray(plan.instance.tools).sum(1)
    replications = len(results[0].start)
    of = f": mean of {replications} replications" if replications > 1 else ""
    for axes, result in zip(grid.ravel(), results, strict=False):
        floor = np.zeros(groups)
        for name, color in parts.items():
            width = 100 * result.figures[name].mean(0)
            axes.barh(y, width, left=floor, color=color, height=0.8)
            floor = floor + width
        axes.set_xlim(0, 100)
        axes.grid(False)
        axes.tick_params(axis="y", length=0)
        alone = len(results) == 1
        title = f"{plan.name}, {result.rule}{of}" if alone else result.rule
        axes.set_title(title, fontsize=11 if alone else 9)
    for axes in grid.ravel()[len(results) :]:
        axes.set_visible(False)
    names = [f"{name} ({n})" for name, n in zip(plan.groups, tools, strict=True)]
    for axes in grid[:, 0]:
        axes.set_yticks(y, names, fontsize=9 if groups <= 25 else 7)
        axes.set_ylim(groups - 0.5, -0.5)
    for i, axes in enumerate(grid.ravel()[: len(results)]):
        if i + across >= len(results):  # nothing below it
            axes.set_xlabel("time of the tools, %")
            axes.tick_params(labelbottom=True)
    if len(results) > 1:
        figure.suptitle(f"{plan.name}{of}", fontsize=11)
    _legend(figure, [Patch(facecolor=color, label=name) for name, color in parts.items()])
    size = 0.24 if groups <= 25 else 0.17
    figure.set_size_inches(max(7, 1.8 + 2.6 * across), 1.6 + down * max(size * groups + 0.3, 1.2))
    return save(figure, out)


@style()
def distribution(plan: Any, results: Sequence[Result], what: str, out: Path) -> Path:
    """The cumulative distribution of a time over the lots of all replications.

    One result is shown by product, where products have more than a few lots; several by rule.

    Args:
      plan, results: the fab and what was simulated.
      what: ``cycle_time``, from release to exit, or ``tardiness``.
      out: the file.
    """
    times = [getattr(result, what).astype(np.float64) for result in results]
    groups: list[tuple[str, Floats]] = []
    for result, of_lots in zip(results, times, strict=True):
        if len(results) > 1:
            groups.append((result.rule, of_lots))
            continue
        for p, name in enumerate(plan.products):
            groups.append((name, of_lots[result.left_product == p]))
        if len(groups) > 1 and max(len(values) for _, values in groups) < 20:
            groups = [("all products", of_lots)]
    known = [(label, np.sort(values)) for label, values in groups if len(values)]
    longest = float(max((values[-1] for _, values in known), default=results[0].end[0])) or 1.0
    unit, name = _unit(plan, longest)
    figure = Figure()
    axes = figure.add_subplot()
    colors = _colors(len(known))
    handles = []
    for i, (label, values) in enumerate(known):
        line = look(i) if len(results) > 1 else {"color": colors[i], "linestyle": "-"}
        x = np.concatenate([values[:1], values]) / unit
        part = np.arange(len(values) + 1) / len(values) * 100
        axes.step(x, part, where="post", **line, linewidth=1.5)
        axes.plot(
            [values.mean() / unit],
            [100 * np.searchsorted(values, values.mean()) / len(values)],
            **line,
            marker="o",
            markersize=5,
        )
        handles.append(
            Line2D(
                [],
                [],
                **line,
                marker="o",
                markersize=5,
                label=f"{label}: mean {values.mean() / unit:.3g}, "
                f"95 % up to {np.quantile(values, 0.95) / unit:.3g}",
            )
        )
    # A few lots that were stuck do not squeeze the others into a corner.
    if known:
        end = 1.15 * max(np.quantile(values, 0.99) for _, values in known)
        high, low = min(float(end), 1.03 * longest), min(float(values[0]) for _, values in known)
        low = 0.0 if low < 0.3 * high else low - 0.05 * (high - low)
        axes.set_xlim(low / unit, (high or longest) / unit)
    else:
        axes.text(0.5, 0.5, "no lot left", transform=axes.transAxes, ha="center")
    axes.set_ylim(0, 101)
    axes.set_xlabel(f"{what.replace('_', ' ')}, {name}")
    axes.set_ylabel("lots that had no more, %")
    rules = f", {results[0].rule}" if len(results) == 1 else ""
    axes.set_title(f"{plan.name}{rules}", fontsize=11)
    columns = _legend(figure, handles, width=83)
    figure.set_size_inches(7, 4.2 + 0.2 * -(-len(handles) // max(columns, 1)))
    return save(figure, out)


@style()
def importance(changed: dict[str, float], title: str, out: Path, shown: int = 20) -> Path:
    """Which features move a policy.

    Args:
      changed: by feature, the part of the decisions that change without what it says.
      title: whose.
      out: the file.
      shown: how many of the features, the most important ones.
    """
    names = sorted(changed, key=lambda name: changed[name])[-shown:]
    figure = Figure(figsize=(7, 1 + 0.24 * len(names)))
    axes = figure.add_subplot()
    axes.barh(names, [100 * changed[name] for name in names], color=COLORS[0])
    axes.set_xlabel("decisions that change where the feature is shuffled among lots, %")
    axes.set_title(title, fontsize=11)
    return save(figure, out)


def lots_over_time(trace: Trace, ticks: Floats, products: int) -> tuple[Floats, Floats]:
    """Lots in the fab by product ``[P, n]``, and those not at a tool or on the way ``[n]``.

    What is so just after each of these `ticks` ``[n]``.
    """

    def rises(times: Any) -> Any:
        return np.searchsorted(np.sort(times), ticks, side="right")

    here = np.zeros((products, len(ticks)))
    for p in range(products):
        mine = trace.product == p
        here[p] = rises(trace.release[mine]) - rises(trace.exit[mine])
    at_tool = rises(trace.start[trace.moved]) - rises(trace.end[trace.moved])
    on_the_way = rises(trace.end[trace.moved]) - rises(trace.arrival)
    return here, here.sum(0) - at_tool - on_the_way


def _events(trace: Trace) -> Floats:
    """When anything happens, from tick 0 to before the end."""
    times = (trace.start, trace.end, trace.arrival, trace.release, trace.exit)
    ticks = np.unique(np.concatenate([[0], *times]))
    return ticks[(ticks >= 0) & (ticks < max(trace.last, 1))].astype(np.float64)


def _means(ticks: Floats, lots: Floats, edges: Floats) -> Floats:
    """Means ``[..., n]`` between `edges` of what is `lots` ``[..., k]`` from each of `ticks` on."""
    lengths = np.diff(ticks)
    sums = np.concatenate([np.zeros((len(lots), 1)), np.cumsum(lots[:, :-1] * lengths, 1)], 1)
    at = np.searchsorted(ticks, edges, side="right") - 1
    return np.diff(sums[:, at] + lots[:, at] * (edges - ticks[at])) / np.diff(edges)


def _extremes(ticks: Floats, lots: Floats, edges: Floats) -> tuple[Floats, Floats]:
    """The least and the most ``[n + 1]`` between edges, the last of them twice."""
    at = np.searchsorted(ticks, edges, side="right") - 1
    first, after = at[:-1], np.searchsorted(ticks, edges[1:], side="left")
    spans = [lots[i : max(j, i + 1)] for i, j in zip(first, after, strict=True)]
    low, high = (np.array([end(span) for span in spans]) for end in (np.min, np.max))
    return np.append(low, low[-1]), np.append(high, high[-1])


def _stretch(trace: Trace, start: int, tools: int) -> tuple[int, int]:
    """The ticks that a Gantt chart shows: wide enough for some dozens of operations of a tool."""
    if not len(trace.start):
        return 0, max(trace.last, 1)
    typical = float(np.median(trace.end - trace.start))
    length = max(40 * typical, 1.0)
    if trace.last - start <= 3 * length:
        length = trace.last - start
    return start, max(start + 1, min(trace.last, round(start + length)))


def _unit(plan: Any, ticks: float) -> tuple[float, str]:
    """Ticks in the unit that says `ticks` in numbers neither large nor small, and its name."""
    seconds = ticks * plan.seconds
    for name, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 3 * length:
            return length / plan.seconds, name
    return 1 / plan.seconds, "seconds"


def _colors(count: int) -> list[str]:
    if count <= len(COLORS):
        return list(COLORS[:count])
    shades = matplotlib.colormaps[_MANY](np.linspace(0.03, 0.97, count))
    return [matplotlib.colors.to_hex(shade) for shade in shades]


def _legend(figure: Figure, handles: list[Any], width: int = 95) -> int:
    """A legend below everything, in as many columns as `width` letters have room for."""
    if not handles:
        return 1
    sizes = [len(handle.get_label()) + 6 for handle in handles]
    columns = 1
    for tried in range(2, len(handles) + 1):
        if sum(part.max() for part in np.array_split(sizes, tried)) <= width:
            columns = tried
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=columns,
        fontsize=9,
        handlelength=2.4,
    )
    return columns
