"""How PPO's speed grows with environments, seeds and devices.

    python benchmarks/scaling.py [environments] [seeds] [devices] [--rounds 5] [--missing]
        [--out DIR]

Steps of all seeds together per second, compile time apart: over 64 to 65,536 environments on one
device, over 1 to 64 seeds of 64 environments trained in one program on one device, and over devices
that share 2048 environments; of a CPU, up to 8 of which are virtual beyond its cores. Writes a
stamped ``scaling.json`` and ``scaling.png``, or ``scaling_gpu.json`` and ``scaling_gpu.png``.
"""

import contextlib
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks import parts
from benchmarks.throughput import Side, in_turns, ppo_case
from rlax_lab.plots import look, save, style

AXES: dict[str, tuple[int, ...]] = {
    "environments": (64, 256, 1024, 4096, 16384, 65536),
    "seeds": (1, 4, 16, 64),
    "devices": (1, 2, 4, 8),
}


def case(axis: str, number: int) -> dict[str, Any]:
    """The work at one place of an axis."""
    if axis == "environments":
        return ppo_case(number)
    if axis == "devices":
        return ppo_case(2048, devices=number)
    whole = ppo_case(64)
    # Of each seed less, where there are many.
    updates = max(1, whole["gradient_steps"] // 16 // number)
    steps = updates * whole["ours"]["num_envs"] * whole["ours"]["num_steps"]
    return whole | {"steps": steps, "gradient_steps": updates * 16, "seeds": number}


def measure(axis: str, numbers: tuple[int, ...], rounds: int) -> dict[str, Any]:
    """Steps per second at each place on the axis, which take turns: the machine's speed drifts."""
    with contextlib.ExitStack() as stack:
        sides = {
            number: stack.enter_context(
                contextlib.closing(Side(sys.executable, "ours", case(axis, number)))
            )
            for number in numbers
        }
        answers = in_turns(sides, rounds)
    found: dict[str, Any] = {}
    for number, side in sides.items():
        seconds = np.array([answer["seconds"] for answer in answers[number]])
        speeds = side.ready["steps"] / seconds
        found[str(number)] = {
            "steps_per_second": float(np.median(speeds)),
            "range": [float(speeds.min()), float(speeds.max())],
            "prepared_seconds": side.ready["prepared"],
        }
        print(f"{number} {axis}: {np.median(speeds):,.0f} steps/s", flush=True)
    return {"rounds": rounds, "by_number": found}


@style()
def draw(result: dict[str, Any], out: Path) -> Path:
    """Steps per second over each axis, the range of the rounds shaded."""
    figure = Figure((10, 3.2))
    shown = [axis for axis in AXES if axis in result]
    every = figure.subplots(1, len(shown), squeeze=False)[0]
    for axes, axis in zip(every, shown, strict=True):
        rows = result[axis]["by_number"]
        at = np.array([int(number) for number in rows])
        low, high = np.array([row["range"] for row in rows.values()]).T
        axes.fill_between(at, low, high, color=look(0)["color"], alpha=0.2, linewidth=0)
        speeds = [row["steps_per_second"] for row in rows.values()]
        axes.plot(at, speeds, **look(0), marker="o", markersize=3)
        axes.set_xscale("log", base=2)
        axes.set_xticks(at, [f"{number:,}" for number in at], rotation=30, fontsize="small")
        axes.minorticks_off()
        axes.set_xlabel(axis)
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_formatter(EngFormatter(sep=""))
    every[0].set_ylabel("steps/s of all seeds")
    return save(figure, out)


def main() -> None:
    parser = parts.parser(__doc__, "axis", AXES)
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    path = parts.path(asked.out, "scaling")
    for axis in parts.wanted(asked, AXES, path):
        numbers = AXES[axis]
        if axis == "devices" and jax.default_backend() != "cpu":
            numbers = tuple(n for n in numbers if n <= jax.device_count())
        found = measure(axis, numbers[:2] if asked.tiny else numbers, asked.rounds)
        parts.keep(path, axis, found | {"tiny": asked.tiny})
    print(draw(parts.read(path), path.with_suffix(".png")))


if __name__ == "__main__":
    main()
