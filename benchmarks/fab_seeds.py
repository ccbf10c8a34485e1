"""How much of what training a dispatching policy brings is luck.

    python benchmarks/fab_seeds.py [--evolution 10] [--ppo 10] [--critics 5] [--out DIR]

trains as many policies of each kind, which differ in nothing but their seed, on fabs of half the
usual size, and simulates all of them on held-out fabs under the same random numbers: by evolution,
by PPO, and by PPO with other critics. Stopped, it goes on where it was. Writes a stamped
``fab_seeds.json``, and ``fab_seeds.png``: learning curves of the first two, and how far each policy
is ahead of its rule.
"""

import argparse
import shlex
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks.fab_ablation import COMMON, FAMILY, VARIANTS, evaluate, train
from rlax_lab import fab_commands, fab_evaluate, fab_train, plots, provenance
from rlax_lab.checkpoint import write_json

# What the training of each learner is counted in.
UNITS = {"evolution": "plays", "ppo": "steps"}
# Other critics of PPO.
CRITICS = ("one value for the fab", "a value for each group")


def over_seeds(against: list[dict[str, Any]]) -> dict[str, Any]:
    """What the policies of all seeds have against their rule on the same fabs: of each seed its
    means over fabs, and of those the mean with a 95 % t-interval over seeds.

    Args:
      against: of each seed what `fab evaluate` says of its policy against the rule.
    """
    each = {
        "objective": [one["differences"]["objective"]["mean"] for one in against],
        "better_objective": [one["better_objective"] for one in against],
    }
    for figure in ("cycle_time", "weighted_tardiness"):
        each[figure] = [one["ratios"][figure]["mean"] for one in against]
    return {name: {**fab_evaluate.mean_of(x), "per_seed": x} for name, x in each.items()}


def curve(learner: str, folders: list[Path]) -> plots.Curve:
    """The learning curves of all seeds as one."""
    seeds = [plots.read_curve(folder) for folder in folders]
    together: dict[str, Any] = {
        name: np.concatenate([getattr(seed, name) for seed in seeds], axis=1)
        for name in ("returns", "episode_returns", "episodes")
    }
    return seeds[0]._replace(label=learner, **together)


@plots.style()
def draw(curves: list[plots.Curve], found: dict[str, Any], out: Path) -> Path:
    """A panel with each learning curve, and one of what came of each seed of each kind."""
    widths = [1.0] * len(curves) + [0.5 + 0.3 * len(found)]
    figure = Figure(figsize=(3.6 * sum(widths), 3.4))
    every = figure.subplots(1, len(widths), width_ratios=widths)
    for i, (axes, one) in enumerate(zip(every[:-1], curves, strict=True)):
        plots.draw_curve(axes, one, i, each_seed=True)
        axes.axhline(one.threshold, **plots.THRESHOLD)
        axes.set_title(f"{one.label}, {one.returns.shape[1]} seeds")
        axes.set_xlabel(UNITS[one.label])
    every[0].set_ylabel("return on the fabs of training (rule: dashed)")
    _draw_seeds(every[-1], found)
    return plots.save(figure, out)


def _draw_seeds(axes: Axes, found: dict[str, Any]) -> None:
    for i, one in enumerate(found.values()):
        each = one["against_rule"]["objective"]
        color = plots.look(i)["color"]
        spread = i + np.linspace(-0.15, 0.15, len(each["per_seed"]))
        axes.plot(spread, each["per_seed"], "o", markersize=4, color=color, alpha=0.6)
        half = each["mean"] - each["ci95"][0]
        axes.errorbar(i + 0.3, each["mean"], half, fmt="s", color=color, capsize=3)
    axes.axhline(0, **plots.THRESHOLD)
    axes.set_xticks(range(len(found)), [textwrap.fill(kind, 11) for kind in found])
    axes.set_xlim(-0.5, len(found) - 0.5)
    axes.set_title("held-out fabs")
    axes.set_ylabel("objective: policy minus rule")


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    for learner in UNITS:
        parser.add_argument(f"--{learner}", type=int, default=10, metavar="N", help="its seeds")
    parser.add_argument(
        "--critics", type=int, default=5, metavar="N", help="seeds of each other critic"
    )
    parser.add_argument("--configs", type=int, default=64, help="held-out fabs")
    parser.add_argument("--runs", type=Path, default=Path("runs/seeds"), help="their folder")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--also", default="", help="words for every training run, as --parts 1")
    asked = parser.parse_args()
    kinds: dict[str, Any] = {}
    curves = []
    for kind in (*UNITS, *CRITICS):
        learner = kind if kind in UNITS else "ppo"
        words = f"{VARIANTS[learner][kind]} {asked.also}".strip()
        seeds = getattr(asked, kind) if kind in UNITS else asked.critics
        place = kind.replace(" ", "-")
        folders = [asked.runs / f"{place}-{seed}" for seed in range(seeds)]
        if not folders:
            continue
        for seed, folder in enumerate(folders):
            train(f"{COMMON[learner]} --seed {seed} {words}", folder)
        if kind in UNITS:
            curves.append(curve(kind, folders))
        evaluation = asked.runs / f"{place}-on-{asked.configs}"
        runs, rules = [str(folder) for folder in folders], ("setup > FIFO", fab_train.RULE)
        about = evaluate(runs, rules, FAMILY, f"--configs {asked.configs}", evaluation)
        policies = [about["policies"][f"{fab_commands.POLICY}{folder.name}"] for folder in folders]
        kinds[kind] = {
            "training": f"rlax-lab fab {COMMON[learner]} {words}".strip(),
            "against_rule": over_seeds([one["against"][fab_train.RULE] for one in policies]),
            "evaluation": about,
        }
        mean, ends = (kinds[kind]["against_rule"]["objective"][x] for x in ("mean", "ci95"))
        print(f"{kind}: {mean:+.4f} ({ends[0]:+.4f} to {ends[1]:+.4f}) over the rule")
    command = shlex.join(["python", "benchmarks/fab_seeds.py", *sys.argv[1:]])
    asked.out.mkdir(parents=True, exist_ok=True)
    result = {"command": command, "kinds": kinds, **provenance.stamp()}
    write_json(asked.out / "fab_seeds.json", result)
    draw(curves, kinds, asked.out / "fab_seeds.png")


if __name__ == "__main__":
    main()
