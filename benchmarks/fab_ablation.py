"""What each part of training a dispatching policy brings.

    python benchmarks/fab_ablation.py [VARIANT ...] [--configs 64] [--runs DIR] [--out DIR]

trains policies on fabs of half the usual size, with one part changed in each, and simulates all of
them on held-out fabs under the same random numbers. Stopped, it goes on where it was. Writes a
stamped ``fab_ablation.json``. A policy is of one training run: differences as small as those of two
runs that differ in their seed alone (``ppo, seed 1``, ``evolution, seed 1``) say nothing.
"""

import argparse
import json
import shlex
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from rlax_lab import cli, fab_train
from rlax_lab.checkpoint import write_json

FAMILY = "fab-10x300"
PPO = (
    f"train {FAMILY} --fabs 32 --num-envs 64 --num-minibatches 16 --parts 2 --total-steps 400_000 "
    "--value-updates 10"
)
EVOLUTION = f"evolve {FAMILY} --fabs 32 --parts 2 --total-steps 3200 --days 20 --settle 5"
WEAK_RULE = "setup > FIFO"
VARIANTS = {
    "ppo": PPO,
    "ppo, seed 1": f"{PPO} --seed 1",
    "ppo, one value for the fab": f"{PPO} --critic central",
    "ppo, a value for each group": f"{PPO} --critic independent",
    "ppo, value and policy from the start": f"{PPO} --value-updates 0",
    "ppo, from first in, first out": f"{PPO} --rule '{WEAK_RULE}'",
    "evolution": EVOLUTION,
    "evolution, seed 1": f"{EVOLUTION} --seed 1",
    "evolution, plain differences": f"{EVOLUTION} --differences plain",
    "evolution, half the noise": f"{EVOLUTION} --noise 0.05",
    "evolution, all of a play counts": f"{EVOLUTION} --settle 0",
    "evolution, from first in, first out": f"{EVOLUTION} --rule '{WEAK_RULE}'",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("variants", nargs="*", metavar="VARIANT", help=f"of {'; '.join(VARIANTS)}")
    parser.add_argument("--configs", type=int, default=64, help="held-out fabs")
    parser.add_argument("--runs", type=Path, default=Path("runs/ablation"), help="their folder")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--also", default="", help="words for every training run, as --days 20")
    asked = parser.parse_args()
    names = asked.variants or list(VARIANTS)
    if unknown := set(names) - set(VARIANTS):
        parser.error(f"there is no variant '{min(unknown)}'; there are {'; '.join(VARIANTS)}.")
    runs = []
    for name in names:
        folder = asked.runs / name.replace(",", "").replace(" ", "-")
        runs.append(str(folder))
        if not (folder / "summary.json").is_file():
            verb, *words = shlex.split(f"{VARIANTS[name]} {asked.also}")
            done(["fab", verb, *(["--resume"] if folder.exists() else words)], folder)
    words = ["fab", "evaluate", *runs, "--family", FAMILY, "--configs", str(asked.configs)]
    numbers = "-".join(str(list(VARIANTS).index(name)) for name in names)
    evaluation = asked.runs / f"evaluation-of-{numbers}-on-{asked.configs}"
    done([*words, "--rules", f"{WEAK_RULE}, {fab_train.RULE}"], evaluation)
    found = json.loads((evaluation / "evaluation.json").read_text())
    found["command"] = shlex.join(["python", "benchmarks/fab_ablation.py", *sys.argv[1:]])
    asked.out.mkdir(parents=True, exist_ok=True)
    write_json(asked.out / "fab_ablation.json", found)


def done(words: list[str], folder: Path) -> None:
    """Runs a command of `rlax-lab` with its results in a folder; ends here where it fails."""
    if code := cli.main([*words, "--out", str(folder)]):
        sys.exit(code)


if __name__ == "__main__":
    main()
