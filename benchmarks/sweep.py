"""Whether a search finds better settings than the defaults, for the same environment steps.

    python benchmarks/sweep.py

PPO has 80 runs of 100k steps of Pendulum-v1, spent in three ways: the defaults with 80 seeds; 16
settings of learning rate, discount and GAE's lambda drawn at random, with 5 seeds each; 5
populations of 16 members that evolve within the same ranges. What the search finds was picked by
its returns, so it is held against the defaults by other ones: the best setting trains again with 20
fresh seeds; the best of each population plays fresh episodes, and beside it the best of each 16
seeds of the defaults, picked in the same way.

Writes ``results/sweep.json`` and ``results/sweep.png``, and the pictures of both searches.
"""

import argparse
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import matplotlib.figure
import numpy as np

from rlax_lab import cli, ppo, provenance, runs
from rlax_lab.checkpoint import write_json
from rlax_lab.cli import main as rlax_lab
from rlax_lab.plots import COLORS, save, style
from rlax_lab.statistics import summarize

RESULTS = Path(__file__).parent / "results"
ENV = "Pendulum-v1"
TASK = f"ppo --env {ENV} --total-steps 100000 --num-envs 16 --devices 1"
RANGES = "--learning-rate log:3e-4:1e-2 --gamma 0.8:0.999 --gae-lambda 0.8:1"
TRIALS, SEEDS = 16, 5
SEARCH = f"sweep {TASK} {RANGES} --trials {TRIALS} --seeds {SEEDS}"
COMMANDS = {"random": f"{SEARCH} --fresh-seeds 20", "pbt": f"{SEARCH} --method pbt"}


def search(method: str, folder: Path) -> dict[str, Any]:
    """The summary of a sweep."""
    code = rlax_lab([*COMMANDS[method].split(), "--out", str(folder)])
    if code:
        raise SystemExit(code)
    summary: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return summary


def defaults(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Final returns of 80 seeds at the default values, and those in fresh episodes."""
    config = ppo.Config(total_steps=100_000, num_envs=16)
    settings = runs.Settings(seeds=TRIALS * SEEDS, reports=20, devices=1)
    outcome = runs.conduct(cli.make_task("ppo", ENV, config, 1), settings, folder)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    final = np.array([line["eval_return"] for line in lines[-settings.seeds :]])
    return final, outcome.assess(0)


@style()
def draw(rows: dict[str, dict[str, Any]], out: Path) -> None:
    """Every run as a point, and the interquartile mean with its interval."""
    figure = matplotlib.figure.Figure((7, 3.2))
    axes = figure.add_subplot()
    for place, (label, row) in enumerate(rows.items()):
        color = COLORS[0 if "defaults" in label else 1]
        shown = np.array(row["per_seed"])
        heights = place + np.random.default_rng(0).uniform(-0.2, 0.2, len(shown))
        axes.plot(shown, heights, ".", color=color, alpha=0.4)
        axes.plot(row["ci95"], [place, place], color=color, linestyle="-", linewidth=3)
        axes.plot(row["iqm"], place, "o", color=color, markeredgecolor="white", markersize=9)
    axes.set_yticks(range(len(rows)), [label.replace(", ", ",\n") for label in rows])
    axes.invert_yaxis()
    axes.set_xlabel("return on Pendulum-v1 after 100k steps: runs, IQM, 95 % interval")
    axes.grid(False, axis="y")
    save(figure, out)


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        final, fresh = defaults(Path(scratch) / "defaults")
        found = {method: search(method, Path(scratch) / method) for method in COMMANDS}
        for method in COMMANDS:
            shutil.copy(Path(scratch) / method / "sweep.png", out / f"sweep_{method}.png")
    picked = final.reshape(SEEDS, TRIALS).argmax(axis=1)
    rows = {
        "defaults, 80 seeds": summarize(final),
        "found at random, 20 fresh seeds": found["random"]["best"]["fresh"],
        "best of 16 with the defaults, fresh episodes": summarize(
            fresh.reshape(SEEDS, TRIALS)[np.arange(SEEDS), picked]
        ),
        "best of 16 in a population, fresh episodes": found["pbt"]["best"]["fresh"],
    }
    for label, row in rows.items():
        low, high = row["ci95"]
        print(f"{label}: IQM {row['iqm']:.1f} [{low:.1f}, {high:.1f}]")
    result = {
        "command": "python benchmarks/sweep.py",
        "commands": {method: f"rlax-lab {words}" for method, words in COMMANDS.items()},
        "steps": {"of a run": 100_000, "of a search": 100_000 * TRIALS * SEEDS},
        "rows": rows,
        "searches": found,
        **provenance.stamp(),
    }
    write_json(out / "sweep.json", result)
    draw(rows, out / "sweep.png")


if __name__ == "__main__":
    main()
