"""The fab's policies at a size that wants a GPU.

    python benchmarks/fab_gpu.py open|conwip|ppo [--out DIR] [--tiny]

trains on 64 times the fabs in every update that a few cores could: most of what a play tells is
luck, and only the mean of many tells more. The policy is in DIR/NAME; after an interruption the
same command goes on with it. It is simulated on held-out fabs beside the rule and the policy to
beat, and a stamped ``fab_gpu_NAME.json`` says what came of it.
"""

import argparse
import os
import shlex
import sys
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks.fab_ablation import evaluate, train
from rlax_lab import fab_train
from rlax_lab.checkpoint import write_json

POLICIES = Path(__file__).parent / "policies"
EVOLUTION = (
    "--fabs 2048 --num-envs 2048 --total-steps 409_600 --days 60 --settle 20 --noise 0.05 "
    "--learning-rate 0.01 --reports 50 --eval-episodes 256"
)
PPO = (
    "--fabs 4096 --num-envs 4096 --num-minibatches 128 --total-steps 200_000_000 --reports 50 "
    "--eval-episodes 256"
)
OPEN, CONWIP = fab_train.RULE, "BATCS(10, 0.1, 2) @ 0 wait 2"


class Run(NamedTuple):
    """How a policy is trained: the command and its words; the rule to begin with and to beat, and
    the policy to beat."""

    command: str
    family: str
    words: str
    rule: str
    policy: str


RUNS = {
    "open": Run("evolve", "fab-20x300", EVOLUTION, OPEN, "fab-20x300-wait"),
    "conwip": Run("evolve", "fab-20x300-conwip", EVOLUTION, CONWIP, "fab-20x300-conwip"),
    "ppo": Run("train", "fab-20x300", PPO, OPEN, "fab-20x300-wait"),
}
# As little as can be, to see that it runs.
TINY = "--fabs 2 --num-envs 2 --days 2 --warmup 2 --eval-days 2 --eval-episodes 2 --reports 2"
TINY_OF = {
    "evolve": f"{TINY} --total-steps 4 --settle 1",
    "train": f"{TINY} --total-steps 32 --num-steps 8 --num-minibatches 2 --value-updates 1",
}
HELD_OUT = "--configs 1000"
TINY_HELD_OUT = "--configs 2 --warmup 20 --days 10"


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("run", choices=RUNS)
    parser.add_argument("--out", type=Path, default=Path("runs/gpu"))
    parser.add_argument("--tiny", action="store_true", help="as little work as can be")
    asked = parser.parse_args()
    run = RUNS[asked.run]
    # Paths from here: the result should not say where on a machine it was made.
    policies, out = (Path(os.path.relpath(path)) for path in (POLICIES, asked.out))
    policy, folder = policies / run.policy, out / asked.run
    words = [run.command, run.family, "--rule", run.rule, *run.words.split()]
    if run.command == "evolve":  # goes on from the policy to beat
        words += ["--start", str(policy)]
    words += TINY_OF[run.command].split() if asked.tiny else []
    train(shlex.join(words), folder)
    runs, rules = [str(folder), str(policy)], ("setup > FIFO", run.rule)
    held_out = TINY_HELD_OUT if asked.tiny else HELD_OUT
    found = evaluate(runs, rules, run.family, held_out, out / f"{asked.run}-held-out")
    found["command"] = shlex.join(["python", "benchmarks/fab_gpu.py", *sys.argv[1:]])
    write_json(out / f"fab_gpu_{asked.run}.json", found)


if __name__ == "__main__":
    main()
