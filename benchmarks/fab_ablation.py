"""What each part of training a dispatching policy brings.

    python benchmarks/fab_ablation.py ppo|evolution [--configs 64] [--runs DIR] [--out DIR]

trains policies on fabs of half the usual size, with one part changed in each, and simulates all of
them on held-out fabs under the same random numbers. Stopped, it goes on where it was. Writes a
stamped ``fab_ablation_ppo.json`` or ``fab_ablation_evolution.json``. A policy is of one training
run: differences as small as those of runs that differ in their seed alone say nothing.
"""

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from rlax_lab import cli, fab_train
from rlax_lab.checkpoint import write_json

FAMILY = "fab-10x300"
# What policies start from besides the default: a weak rule; the default without waiting; and one in
# which fullness is a part of the index, so that the fullest batch does not go first whatever else
# and policies choose among batches too.
OTHER_RULES = {
    "from first in, first out": "setup > FIFO",
    "no batch waits": "ATCS(300, 0.1)",
    "from BATCS": "BATCS(300, 0.1, 2) @ 0 wait 2",
}
FROM_OTHER_RULES = {name: f"--rule '{rule}'" for name, rule in OTHER_RULES.items()}
# What every run of a learner has; then what one has besides.
COMMON = {
    "ppo": f"train {FAMILY} --fabs 32 --num-envs 64 --num-minibatches 16 --parts 2 "
    "--total-steps 400_000 --value-updates 10",
    "evolution": f"evolve {FAMILY} --fabs 32 --parts 2 --total-steps 3200 --days 20 --settle 5",
}
VARIANTS = {
    "ppo": {
        "ppo": "",
        "seed 1": "--seed 1",
        "seed 2": "--seed 2",
        "one value for the fab": "--critic central",
        "a value for each group": "--critic independent",
        "value and policy from the start": "--value-updates 0",
        "short traces": "--gae-lambda 0.95 --value-lambda 0.95",
        "an epsilon of 1e-5": "--adam-eps 1e-5",
        "a third of the step": "--learning-rate 1e-3",
        **FROM_OTHER_RULES,
    },
    "evolution": {
        "evolution": "",
        "seed 1": "--seed 1",
        "plain differences": "--differences plain",
        "half the noise": "--noise 0.05",
        "all of a play counts": "--settle 0",
        **FROM_OTHER_RULES,
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("learner", choices=VARIANTS)
    parser.add_argument("--configs", type=int, default=64, help="held-out fabs")
    parser.add_argument("--runs", type=Path, default=Path("runs/ablation"), help="their folder")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--also", default="", help="words for every training run, as --days 20")
    asked = parser.parse_args()
    place, runs = asked.runs / asked.learner, []
    for name, change in VARIANTS[asked.learner].items():
        folder = place / name.replace(",", "").replace(" ", "-")
        runs.append(str(folder))
        train(f"{COMMON[asked.learner]} {change} {asked.also}", folder)
    evaluation = place / f"evaluation-on-{asked.configs}"
    rules = (*OTHER_RULES.values(), fab_train.RULE)
    found = evaluate(runs, rules, FAMILY, f"--configs {asked.configs}", evaluation)
    found["command"] = shlex.join(["python", "benchmarks/fab_ablation.py", *sys.argv[1:]])
    asked.out.mkdir(parents=True, exist_ok=True)
    write_json(asked.out / f"fab_ablation_{asked.learner}.json", found)


def train(command: str, folder: Path) -> None:
    """A run of `rlax-lab fab`, if it is not there; goes on with one that was stopped."""
    if not (folder / "summary.json").is_file():
        verb, *words = shlex.split(command)
        done(["fab", verb, *(["--resume"] if folder.exists() else words)], folder)


def evaluate(
    runs: list[str], rules: Sequence[str], family: str, words: str, folder: Path
) -> dict[str, Any]:
    """What `fab evaluate` finds of runs and rules on a family's held-out fabs."""
    command = ["fab", "evaluate", *runs, "--family", family, *words.split()]
    done([*command, "--rules", ", ".join(rules)], folder)
    found: dict[str, Any] = json.loads((folder / "evaluation.json").read_text())
    return found


def done(words: list[str], folder: Path) -> None:
    """Runs a command of `rlax-lab` with its results in a folder; ends here where it fails."""
    if code := cli.main([*words, "--out", str(folder)]):
        sys.exit(code)


if __name__ == "__main__":
    main()
