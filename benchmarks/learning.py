"""What each learner reaches, next to what was published.

    python benchmarks/learning.py [NAME ...] [--seeds 10]

runs the experiments below (all, or those named) through the command line, and writes a stamped
``results/NAME.json`` with every seed's return and a picture beside it.
"""

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from rlax_lab.cli import main as rlax_lab

RESULTS = Path(__file__).parent / "results"


class Experiment(NamedTuple):
    """One line of the table.

    Attributes:
      algo, env: what learns what.
      options: of the command line, the budget (`--total-steps`, per seed) among them.
      target: the mean return over seeds that must be reached.
      published: the number it answers to, with its protocol.
    """

    algo: str
    env: str
    options: str
    target: float
    published: str


EXPERIMENTS = {
    "ppo_cartpole": Experiment(
        "ppo",
        "CartPole-v1",
        "--total-steps 30000 --num-envs 16 --num-steps 32 --num-epochs 10 --num-minibatches 8 "
        "--learning-rate 1e-3",
        475.0,
        "500 at 100k steps (SB3 zoo, one run); 490.0 +- 6.1 at 500k (CleanRL, 3 seeds, training)",
    ),
    "ppo_pendulum": Experiment(
        "ppo",
        "Pendulum-v1",
        "--total-steps 100000 --num-envs 8 --num-steps 128 --num-epochs 10 --num-minibatches 16 "
        "--learning-rate 1e-3 --gamma 0.9 --activation relu --scale-rewards",
        -200.0,
        "-172.2 at 100k steps (SB3 zoo, one run)",
    ),
    "ppo_acrobot": Experiment(
        "ppo",
        "Acrobot-v1",
        "--total-steps 200000 --num-envs 32 --num-steps 64 --num-epochs 4 --num-minibatches 8 "
        "--learning-rate 1e-3 --entropy-coef 0.01 --normalize-observations --scale-rewards",
        -90.0,
        "-73.5 at 1M steps (SB3 zoo, one run); -86.4 at 500k (CleanRL, 3 seeds, training)",
    ),
}


def run(name: str, seeds: int, folder: Path, reports: int = 20) -> dict[str, Any]:
    """Runs one experiment in `folder` and returns its summary."""
    experiment = EXPERIMENTS[name]
    words = ["train", experiment.algo, "--env", experiment.env, *experiment.options.split()]
    words += ["--seeds", str(seeds), "--reports", str(reports), "--out", str(folder)]
    code = rlax_lab(words)
    if code:
        sys.exit(code)
    summary: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return {
        "command": " ".join(["rlax-lab", *words[:-2]]),
        "target": experiment.target,
        "published": experiment.published,
        **summary,
    }


def table(results: dict[str, dict[str, Any]]) -> str:
    """The results as a table in Markdown."""
    lines = [
        "| task | budget | IQM [95 % interval] | mean | worst seed | published |",
        "|---|---|---|---|---|---|",
    ]
    for result in results.values():
        final = result["final_return"]
        low, high = final["ci95"]
        lines.append(
            f"| {result['algo'].upper()}, {result['env']} | {result['env_steps'] / 1000:.0f}k "
            f"| {final['iqm']:.1f} [{low:.1f}, {high:.1f}] | {final['mean']:.1f} "
            f"| {min(final['per_seed']):.1f} | {result['published']} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--seeds", type=int, default=10)
    arguments = parser.parse_args()
    for name in arguments.names:
        if name not in EXPERIMENTS:
            parser.error(f"there is no experiment {name!r}; there are {', '.join(EXPERIMENTS)}.")
    for name in arguments.names or EXPERIMENTS:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) / name
            result = run(name, arguments.seeds, folder)
            (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=2) + "\n")
            shutil.copy(folder / "curve.png", RESULTS / f"{name}.png")
    written = sorted(path for path in RESULTS.glob("*.json") if path.stem in EXPERIMENTS)
    print(table({path.stem: json.loads(path.read_text()) for path in written}))


if __name__ == "__main__":
    main()
