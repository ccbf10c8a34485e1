"""Whether what makes a run fast changes what it learns.

    python benchmarks/parity.py [--seeds 10] [--out DIR]

PPO on CartPole-v1, 100k steps: in one part, and with its environments in 2 and in 8 parts, as on as
many devices; with minibatches by `jax.random.permutation` in the place of our own shuffle; and with
networks that compute in bfloat16.
Compares the mean return of the training episodes of the whole run, and of its last quarter, seed by
seed: IQM with a 95 % interval. Writes a stamped ``parity.json``.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks import parts
from rlax_lab import ppo, shards, train
from rlax_lab.packages import ours
from rlax_lab.statistics import summarize

REPORTS = 16


def returns(seeds: int, steps: int, in_parts: int = 1, **settings: Any) -> np.ndarray:
    """Mean return of the training episodes of each 16th of a run ``[16, seeds]``."""
    env, env_params = ours("registry").make("CartPole-v1")
    config = ppo.Config(
        total_steps=steps,
        num_envs=32,
        num_steps=64,
        num_minibatches=8,
        learning_rate=1e-3,
        **settings,
    )
    learner = shards.spread(lambda config: ppo.make(env, config, env_params), config, in_parts)
    states = jax.jit(jax.vmap(learner.init))(train.seed_keys(0, seeds))
    sums = [report.sums for _, report in train.train(learner, states, reports=REPORTS)]
    return np.array([x["episode_return"] / np.maximum(x["episodes"], 1) for x in sums])


def with_permutation(seeds: int, steps: int) -> np.ndarray:
    """`returns` with minibatches by sorting."""
    with mock.patch.object(ppo, "permutation", jax.random.permutation):
        return returns(seeds, steps)


VARIANTS: dict[str, Callable[[int, int], np.ndarray]] = {
    "one part, our shuffle": returns,
    "2 parts": lambda seeds, steps: returns(seeds, steps, 2),
    "8 parts": lambda seeds, steps: returns(seeds, steps, 8),
    "jax.random.permutation": with_permutation,
    "bfloat16": lambda seeds, steps: returns(seeds, steps, precision="bfloat16"),
}


def measure(seeds: int, steps: int) -> dict[str, Any]:
    """Of every variant both returns, as their IQM and interval."""
    found: dict[str, Any] = {}
    for name, run in VARIANTS.items():
        curve = run(seeds, steps)
        found[name] = {
            "whole_run": summarize(curve.mean(axis=0)),
            "last_quarter": summarize(curve[-len(curve) // 4 :].mean(axis=0)),
        }
        for part, summary in found[name].items():
            low, high = summary["ci95"]
            print(f"{name}: {part} {summary['iqm']:.1f} [{low:.1f}, {high:.1f}]", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--out", type=Path, default=parts.RESULTS)
    asked = parser.parse_args()
    path = parts.path(asked.out, "parity")
    found = {
        "seeds": asked.seeds,
        "steps": asked.steps,
        "variants": measure(asked.seeds, asked.steps),
    }
    parts.keep(path, "ppo_cartpole", found)


if __name__ == "__main__":
    main()
