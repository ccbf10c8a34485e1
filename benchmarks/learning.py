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


CARTPOLE = "500 at {} steps (SB3 zoo, one run)"
MINATAR = "--torso minatar_cnn --gamma 0.99 --eval-episodes 16 --checkpoint-seconds 300"
DQN_MINATAR = (
    f"{MINATAR} --num-envs 16 --num-steps 4 --num-gradient-steps 16 "
    "--batch-size 32 --buffer-size 100000 --learning-starts 5000 --learning-rate 3e-4 "
    "--target-period 250 --epsilon-end 0.1 --loss huber"
)
PPO_MINATAR = (
    f"{MINATAR} --shared-torso --num-envs 64 --num-steps 128 --num-epochs 3 "
    "--num-minibatches 16 --learning-rate 1e-3 --entropy-coef 0.01"
)
# What two cores of a CPU had time for; the published curves are of 5M frames and 20M steps.
MINATAR_STEPS = {"dqn": 500_000, "ppo": 1_000_000}


def minatar(algo: str, game: str, dqn: float, ppo: float) -> Experiment:
    """A game of MinAtar, against the curves of Young and Tian (DQN) and of Pgx (PPO)."""
    budget, options, target, source = {
        "dqn": ("5M frames", DQN_MINATAR, dqn, "Young and Tian, 30 seeds, training return"),
        "ppo": ("20M steps", PPO_MINATAR, ppo, "Pgx, figure"),
    }[algo]
    options = f"--total-steps {MINATAR_STEPS[algo]} {options}"
    return Experiment(
        algo, f"{game}-MinAtar", options, target, f"{target:g} at {budget} ({source})"
    )


EXPERIMENTS = {
    "reinforce_cartpole": Experiment(
        "reinforce", "CartPole-v1", "--total-steps 300000", 475.0, "none known at a stated budget"
    ),
    "actor_critic_cartpole": Experiment(
        "actor_critic",
        "CartPole-v1",
        "--total-steps 300000",
        475.0,
        "none known at a stated budget",
    ),
    "a2c_cartpole": Experiment(
        "a2c", "CartPole-v1", "--total-steps 200000", 475.0, CARTPOLE.format("500k")
    ),
    "a3c_cartpole": Experiment(
        "a3c", "CartPole-v1", "--total-steps 200000", 475.0, f"A2C: {CARTPOLE.format('500k')}"
    ),
    "dqn_cartpole": Experiment(
        "dqn",
        "CartPole-v1",
        "--total-steps 50000 --n-step 3 --double --learning-rate 2e-3",
        475.0,
        f"{CARTPOLE.format('50k')}; 498.4 +- 2.3 at 500k (CleanRL, 3 seeds, training)",
    ),
    "ppo_cartpole": Experiment(
        "ppo",
        "CartPole-v1",
        "--total-steps 30000 --num-envs 16 --num-steps 32 --num-epochs 10 --num-minibatches 8 "
        "--learning-rate 1e-3",
        475.0,
        "500 at 100k steps (SB3 zoo, one run); 490.0 +- 6.1 at 500k (CleanRL, 3 seeds, training)",
    ),
    "a2c_acrobot": Experiment(
        "a2c",
        "Acrobot-v1",
        "--total-steps 300000 --learning-rate 7e-4 --normalize-observations --scale-rewards",
        -90.0,
        "-83.4 at 500k steps (SB3 zoo, one run)",
    ),
    "dqn_acrobot": Experiment(
        "dqn",
        "Acrobot-v1",
        "--total-steps 60000 --num-gradient-steps 16 --buffer-size 50000 --learning-rate 1e-3 "
        "--target-period 50",
        -85.0,
        "-76.6 at 100k steps (SB3 zoo, one run); -88.9 at 500k (CleanRL, 3 seeds, training)",
    ),
    "ppo_acrobot": Experiment(
        "ppo",
        "Acrobot-v1",
        "--total-steps 200000 --num-envs 32 --num-steps 64 --num-epochs 4 --num-minibatches 8 "
        "--learning-rate 1e-3 --entropy-coef 0.01 --normalize-observations --scale-rewards",
        -90.0,
        "-73.5 at 1M steps (SB3 zoo, one run); -86.4 at 500k (CleanRL, 3 seeds, training)",
    ),
    "dqn_mountaincar": Experiment(
        "dqn",
        "MountainCar-v0",
        "--total-steps 120000 --batch-size 128 --buffer-size 20000 --target-period 150 "
        "--learning-rate 4e-3 --epsilon-end 0.07 --exploration-repeat 2 --normalize-observations",
        -120.0,
        "-100.8 at 120k steps (SB3 zoo, one run); -188.9 at 500k (CleanRL, 3 seeds, training)",
    ),
    "a2c_pendulum": Experiment(
        "a2c",
        "Pendulum-v1",
        "--total-steps 1000000 --num-envs 8 --num-steps 8 --gamma 0.9 --gae-lambda 0.9 "
        "--optimizer adam --learning-rate 1e-3 --entropy-coef 0 --scale-rewards",
        -200.0,
        "-163.0 at 1M steps (SB3 zoo, one run)",
    ),
    "ppo_pendulum": Experiment(
        "ppo",
        "Pendulum-v1",
        "--total-steps 100000 --num-envs 8 --num-steps 128 --num-epochs 10 --num-minibatches 16 "
        "--learning-rate 1e-3 --gamma 0.9 --activation relu --scale-rewards",
        -200.0,
        "-172.2 at 100k steps (SB3 zoo, one run)",
    ),
    **{
        f"{algo}_{game.lower()}": minatar(algo, game, dqn, ppo)
        for game, dqn, ppo in (
            ("Breakout", 10.0, 50.0),
            ("Asterix", 17.0, 22.0),
            ("SpaceInvaders", 44.0, 145.0),
            ("Freeway", 50.0, 63.0),
        )
        for algo in ("dqn", "ppo")
    },
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
    for name in (name for name in EXPERIMENTS if name in results):
        result = results[name]
        final = result["final_return"]
        low, high = final["ci95"]
        lines.append(
            f"| {result['algo']}, {result['env']}, {result['seeds']} seeds "
            f"| {result['env_steps'] / 1000:.0f}k "
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
