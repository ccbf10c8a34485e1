"""How long one decision of a fab's agents takes.

    python benchmarks/fab_latency.py [--fabs NAME ...] [--decisions N] [--out DIR]

From the state of the fab to the lots that its groups start: what the agents see, and what their
network chooses, jitted, one fab at a time, along a run of it. The weights are those of an untrained
policy, as the time does not depend on them. Writes a stamped ``fab_latency.json``.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from rlax_lab import fab_policy, fab_train, provenance
from rlax_lab.checkpoint import write_json
from rlax_lab.packages import ours

FABS = ("seed-10x50", "fab-20x300", "fab-20x300-conwip")


def measure(name: str, decisions: int) -> dict[str, float]:
    """Milliseconds of a decision, its median, 99th percentile and maximum."""
    env = ours("fab.env").FabEnv(name, days=1000.0, rule=fab_train.RULE)
    params = env.default_params
    pi = fab_policy.make(env, params)
    weights = pi.init(jax.random.key(0))

    @jax.jit
    def decide(state: Any) -> jax.Array:
        return pi.act(weights, env.observe(jax.random.key(0), state, None, params))

    @jax.jit
    def advance(state: Any, action: jax.Array) -> Any:
        return env.step_env(jax.random.key(0), state, action, params)[1]

    _, state = jax.jit(env.reset_env)(jax.random.key(0), params)
    times = []
    for i in range(decisions + 100):
        jax.block_until_ready(state)
        began = time.perf_counter()
        action = jax.device_get(decide(state))
        if i >= 100:  # the first ones compile and fill the fab
            times.append(1000 * (time.perf_counter() - began))
        state = advance(state, action)
    return {
        "median_ms": float(np.median(times)),
        "p99_ms": float(np.percentile(times, 99)),
        "max_ms": float(np.max(times)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--fabs", nargs="+", default=list(FABS))
    parser.add_argument("--decisions", type=int, default=5000)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    asked = parser.parse_args()
    found = {}
    for name in asked.fabs:
        found[name] = measure(name, asked.decisions)
        print(name, *(f"{key} {value:.3f}" for key, value in found[name].items()), flush=True)
    result = {
        "command": "python benchmarks/fab_latency.py",
        "decisions": asked.decisions,
        "fabs": found,
    }
    asked.out.mkdir(parents=True, exist_ok=True)
    write_json(asked.out / "fab_latency.json", result | provenance.stamp())


if __name__ == "__main__":
    main()
