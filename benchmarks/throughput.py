"""How fast PPO trains, over the number of environments.

    python benchmarks/throughput.py [--envs 64 512 ...] [--out FILE]

CartPole-v1, 128 steps, 4 epochs of 4 minibatches, two towers of 64 and 64 tanh units. Compile time
is apart. On a machine shared with others only ratios measured side by side mean anything.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import gymnax
import jax
import numpy as np

from rlax_lab import ppo, provenance

SIZES = (64, 256, 1024, 4096, 16384, 65536)
SECONDS = 3.0


def measure(num_envs: int) -> dict[str, Any]:
    """Compile seconds, and steps per second of single updates (median and range)."""
    env, _ = gymnax.make("CartPole-v1")
    config = ppo.Config(num_envs=num_envs, num_steps=128, num_epochs=4, num_minibatches=4)
    learner = ppo.make(env, config)
    began = time.perf_counter()
    state = jax.jit(learner.init)(jax.random.key(0))
    update = jax.jit(learner.update, donate_argnums=0).lower(state).compile()
    compiled = time.perf_counter() - began
    state, _ = jax.block_until_ready(update(state))
    speeds: list[float] = []
    began = time.perf_counter()
    while time.perf_counter() - began < SECONDS or len(speeds) < 3:
        start = time.perf_counter()
        state, _ = jax.block_until_ready(update(state))
        speeds.append(learner.steps_per_update / (time.perf_counter() - start))
    return {
        "num_envs": num_envs,
        "compile_seconds": compiled,
        "steps_per_second": float(np.median(speeds)),
        "range": [min(speeds), max(speeds)],
        "updates": len(speeds),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--envs", type=int, nargs="+", default=SIZES)
    parser.add_argument("--out", type=Path, help="write a stamped result file")
    arguments = parser.parse_args()
    rows = []
    for num_envs in arguments.envs:
        row = measure(num_envs)
        rows.append(row)
        low, high = row["range"]
        print(
            f"{num_envs:6d} environments: {row['steps_per_second']:,.0f} steps/s "
            f"({low:,.0f} to {high:,.0f}), compiled in {row['compile_seconds']:.1f} s",
            flush=True,
        )
    if arguments.out:
        result = {"command": "python benchmarks/throughput.py", "rows": rows}
        arguments.out.write_text(json.dumps(result | provenance.stamp(), indent=2) + "\n")


if __name__ == "__main__":
    main()
