"""From a cold process to CartPole solved, and the memory of a long run, beside purejaxrl.

    python benchmarks/cold.py [cold] [memory] [--peers PYTHON] [--purejaxrl PATH] [--rounds 5]
        [--missing] [--out DIR]

`cold`: fresh processes in turns, import and compilation included, another seed every round: ours
with an empty compilation cache and with the one that its first run left, as the command line keeps
one, and purejaxrl with none, as it has none. Each learner has its own settings for the task.
`memory`: the most memory that a process of PPO with 2048 environments had, after 1M and 10M steps.
Writes a stamped ``cold.json``, or ``cold_gpu.json``.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks import parts
from benchmarks.throughput import ROOT, Side, ppo_case, ratio

WORKER = Path(__file__).with_name("cold_worker.py")
STEPS = 500_000
PARTS = ("cold", "memory")


def once(
    python: str, side: str, seed: int, steps: int, checkout: str, cache: str
) -> dict[str, Any]:
    """Seconds of one fresh process."""
    environment = dict(os.environ)
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    if side == "ours":
        environment["PYTHONPATH"] = f"{ROOT}{os.pathsep}{environment.get('PYTHONPATH', '')}"
        environment["JAX_COMPILATION_CACHE_DIR"] = cache
        environment["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    else:
        environment.pop("PYTHONPATH", None)
    words = [python, str(WORKER), side, str(seed), str(steps), str(time.time()), checkout]
    done = subprocess.run(words, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def cold(pythons: dict[str, str], checkout: str, rounds: int, steps: int) -> dict[str, Any]:
    """Seconds to solved, of every side in turns; None in a round that did not get there."""
    runs: dict[str, list[dict[str, Any]]] = {"ours": [], "ours, cached": []}
    runs |= {side: [] for side in pythons if side != "ours"}
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(rounds):
            for name, found in runs.items():
                side = name.partition(",")[0]
                cache = f"{folder}/kept" if name != side else f"{folder}/{seed}"
                if seed == 0 and name != side:  # the run that fills it
                    once(pythons[side], side, seed, steps, checkout, cache)
                found.append(once(pythons[side], side, seed, steps, checkout, cache))
    result: dict[str, Any] = {}
    for name, found in runs.items():
        seconds = [run["seconds"] for run in found]
        result[name] = {"seconds": seconds, "prepared": [run["prepared"] for run in found]}
        print(f"{name}: solved after {seconds} s")
    theirs = result.get("purejaxrl")
    for name in ("ours", "ours, cached"):
        pairs = zip(theirs["seconds"], result[name]["seconds"], strict=True) if theirs else ()
        both = [pair for pair in pairs if None not in pair]
        if both:
            result[name]["ratio"] = ratio(*map(list, zip(*both, strict=True)))
            print(f"{name} is faster by {result[name]['ratio']}")
    return {"rounds": rounds, "sides": result}


def memory(pythons: dict[str, str], checkout: str, sizes: tuple[int, ...]) -> dict[str, Any]:
    """The most memory of each side, in MB, by the steps of the run."""
    found: dict[str, dict[str, Any]] = {side: {} for side in pythons}
    for updates in sizes:
        case = ppo_case(2048)
        batch = case["steps"] // (case["gradient_steps"] // 16)
        case |= {"steps": updates * batch, "gradient_steps": updates * 16, "purejaxrl": checkout}
        for side, python in pythons.items():
            worker = Side(python, side, case)
            worker.close()
            peaks = {key: x for key, x in worker.ready.items() if key.endswith("_mb")}
            found[side][str(updates * batch)] = peaks
            print(f"{side}: {updates * batch:,} steps, {peaks}", flush=True)
    return {"by_steps": found}


def main() -> None:
    parser = parts.parser(__doc__, "part", PARTS)
    parts.add_peers(parser)
    asked = parser.parse_args()
    pythons = {"ours": sys.executable}
    if asked.peers and asked.purejaxrl:
        pythons["purejaxrl"] = asked.peers
    checkout = str(asked.purejaxrl)
    path = parts.path(asked.out, "cold")
    for name in parts.wanted(asked, PARTS, path):
        if name == "cold":
            rounds, steps = (1, 16_384) if asked.tiny else (asked.rounds, STEPS)
            found = cold(pythons, checkout, rounds, steps)
        else:
            found = memory(pythons, checkout, (1, 2) if asked.tiny else (4, 38))
        parts.keep(path, name, found | {"tiny": asked.tiny})


if __name__ == "__main__":
    main()
