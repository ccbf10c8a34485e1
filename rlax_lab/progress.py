"""What a user sees while a run works, and when it is done."""

import sys
import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table


def count(x: float) -> str:
    """A count in three or four characters: 950, 12.3k, 4.56M."""
    for unit in ("", "k", "M"):
        if abs(x) < 999.5:
            return f"{x:.0f}" if not unit else f"{x:.3g}{unit}"
        x /= 1000
    return f"{x:.3g}G"


def duration(seconds: float) -> str:
    """Seconds as 42s, 3m07s or 2h05m."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"


def spread(values: Sequence[float]) -> str:
    """Mean over seeds, with the range they span."""
    known = np.asarray([v for v in values if v is not None and not np.isnan(v)])
    if not known.size:
        return "no episode yet"
    if known.size == 1:
        return f"{known[0]:.1f}"
    return f"{known.mean():.1f} ({known.min():.1f} to {known.max():.1f})"


class Progress:
    """A live line on a terminal; elsewhere one plain line per report."""

    def __init__(self, total_steps: int, each: str) -> None:
        """Of runs that take `total_steps` each, such as "10 seeds"."""
        self.total_steps = total_steps
        self.each = each
        self.console = _console()
        self.live = Live(console=self.console, auto_refresh=False, transient=True)
        self.reported = [time.monotonic()]

    def __enter__(self) -> "Progress":
        if self.console.is_terminal:
            self.live.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.live.stop()

    def say(self, text: str) -> None:
        """A line that stays."""
        say(text, self.console)

    def until_report(self) -> float | None:
        """Seconds to the next report, if it takes as long as the last one; None before that."""
        if len(self.reported) < 2:
            return None
        before, last = self.reported[-2:]
        return max(0.0, 2 * last - before - time.monotonic())

    def report(
        self,
        steps: int,
        steps_per_second: float,
        seconds_left: float,
        episode_returns: Sequence[float],
        eval_returns: Sequence[float],
        best: str = "",
    ) -> None:
        """Where the run stands: `steps` and returns of each, and which of them is best so far."""
        self.reported.append(time.monotonic())
        cells = [
            f"{count(steps)}/{count(self.total_steps)} steps x {self.each}",
            f"{count(steps_per_second)} steps/s",
            f"return {spread(episode_returns)}",
            f"evaluation {spread(eval_returns)}",
            *([best] if best else []),
            f"{duration(seconds_left)} left",
        ]
        if not self.console.is_terminal:
            self.say("  ".join(cells))
            return
        line = Table.grid(padding=(0, 2))
        line.add_row(ProgressBar(self.total_steps, steps, width=20), *cells[:2], cells[-1])
        returns = Table.grid(padding=(0, 2))
        returns.add_row("training return", spread(episode_returns))
        returns.add_row("evaluation return", spread(eval_returns))
        if best:
            returns.add_row("best", best)
        both = Table.grid()
        both.add_row(line)
        both.add_row(returns)
        self.live.update(both, refresh=True)


def summary(summary: dict[str, Any], folder: Any) -> None:
    """The closing table of a run and where everything is."""
    final, reached = summary["final_return"], summary["steps_to_threshold"]
    rows = {
        "algorithm, environment": f"{summary['algo']} on {summary['env']}",
        "environment steps": f"{count(summary['env_steps'])} x {summary['seeds']} seeds",
        "final evaluation return": measured(final),
        "per seed": " ".join(_short(v) for v in final["per_seed"]),
    }
    if reached["threshold"] is not None:
        solved = [v for v in reached["per_seed"] if v is not None]
        median = f", after {count(float(np.median(solved)))} steps (median)" if solved else ""
        rows[f"reached {reached['threshold']:g}"] = (
            f"{len(solved)} of {summary['seeds']} seeds{median}"
        )
    rows |= {
        "speed": speed(summary),
        "learning curve": str(folder / "curve.png"),
        "run folder": str(folder),
    }
    table(rows)


def table(rows: dict[str, str]) -> None:
    """Names, and beside each what is to be said of it."""
    shown = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for name, text in rows.items():
        shown.add_row(name, text)
    _console().print(shown)


def measured(final: dict[str, Any]) -> str:
    """Returns over seeds, as `statistics.summarize` gives them."""
    if final["iqm"] is None:
        return "no episode ended"
    low, high = final["ci95"]
    interval = f"(95 % interval {low:.1f} to {high:.1f})"
    return f"IQM {final['iqm']:.1f} {interval}, mean {final['mean']:.1f}"


def speed(summary: dict[str, Any]) -> str:
    """How fast a run was."""
    return (
        f"{count(summary['steps_per_second'])} steps/s, "
        f"{duration(summary['compile_seconds'])} compiling, "
        f"{duration(summary['wall_seconds'])} in all"
    )


def say(text: str, console: Console | None = None) -> None:
    """A line of any length."""
    (console or _console()).print(text, soft_wrap=True, markup=False)
    sys.stdout.flush()


def _console() -> Console:
    return Console(highlight=False, quiet=jax.process_index() > 0)


def _short(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"
