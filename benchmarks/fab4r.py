"""MIMAC FAB4r under eleven published dispatching rules.

    python benchmarks/fab4r.py FAB4R.TXT PUBLISHED.JSON [--rules NAME ...] [--policy RUN ...]

runs 20 replications of 6 years of 365 days, the first of which is dropped, for each rule, and
compares means of flow time, tardiness, fraction tardy and weighted tardiness with the published
ones. The two files are jasima's data set and the table of the Winter Simulation Conference 2010
experiment; they are not part of this project. Writes a stamped ``fab4r.json``; with policies, which
are measured in the same way, on the same arrivals, beside the rules, ``fab4r_policies.json``.
"""

import argparse
import json
import shlex
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from rlax_lab import commands, fab_commands, fab_train, provenance
from rlax_lab.checkpoint import write_json
from rlax_lab.packages import ours

commands.use_all_cores()
figures, library, rules, simulate = (
    ours(f"fab.{name}") for name in ("figures", "library", "rules", "simulate")
)

# What the published rows mean: ties of setup and weight come before the basic rules; the weighted
# ones wait for 5 of 8 lots, the evolved ones for 1.
PUBLISHED = {
    "FIFO": "setup > weight > FIFO",
    "SPT": "setup > weight > SPT",
    "EDD": "setup > weight > EDD",
    "ODD": "setup > weight > ODD",
    "CR": "setup > weight > CR",
    "WSPT": "setup > WSPT",
    "WMOD": "setup > WMOD @ 0.625",
    "WMDD": "setup > WMDD @ 0.625",
    "ATCS(4.5,0.01)": "ATCS(4.5, 0.01) @ 0.625",
    "GP 16 nodes": "evolved16 @ 0.125",
    "GP 20 nodes": "evolved20 @ 0.125",
}
RULES = PUBLISHED | {"GP 20 nodes, waiting": "evolved20 @ 0.125 wait 1000"}
COLUMNS = ("flow_mean", "tardiness_mean", "fraction_tardy", "weighted_tardiness_mean")
YEAR = 365 * 1440


def measure(plan: Any, rule: Any, replications: int, years: float, seed: int) -> dict[str, Any]:
    """Figures of each replication, in minutes."""
    instance = jax.tree.map(jnp.asarray, plan.instance)
    end = round(years * YEAR * plan.ticks)
    window = figures.Window(jnp.int32(YEAR * plan.ticks), jnp.int32(end))
    keys = jax.random.split(jax.random.key(seed), replications)
    state = jax.jit(lambda keys: simulate.start(instance, keys, window))(keys)
    began = time.perf_counter()
    state = jax.jit(lambda state: simulate.run(instance, rule, state))(state)
    jax.block_until_ready(state)
    if bool(state.late.any()):
        raise RuntimeError(f"too few slots for {int(state.late.sum())} replications")
    found = figures.measure(plan, state)
    values = [
        found["cycle_time"],
        found["tardiness"],
        1 - found["on_time"],
        found["weighted_tardiness"],
    ]
    return {
        "values": dict(zip(COLUMNS, values, strict=True)),
        # The last lots in their slots are yet to come.
        "released": np.asarray(state.released).sum(-1)
        - (np.asarray(state.lots.release) >= end).sum(-1),
        "moves": int(np.sum(found["moves_per_day"]) * (years - 1) * 365),
        "seconds": time.perf_counter() - began,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("data", help="FAB4r's data file")
    parser.add_argument("published", type=Path, help="the published table")
    parser.add_argument("--rules", nargs="+", choices=RULES, default=list(PUBLISHED))
    parser.add_argument("--policy", nargs="+", type=Path, default=[], help="folders of runs")
    parser.add_argument("--replications", type=int, default=20)
    parser.add_argument("--years", type=float, default=6)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    asked = parser.parse_args()
    plan = library.load(f"fab4r:{asked.data}")
    published = json.loads(asked.published.read_text())["rows"]
    contenders = {name: (RULES[name], rules.parse(RULES[name])) for name in asked.rules}
    trained = {}
    for path in asked.policy:
        contenders[f"{fab_commands.POLICY}{path.name}"] = (None, fab_train.decider(path, plan))
        trained[path.name] = fab_train.read_record(path) | {"env": "fab4r:FAB4R.TXT"}
    rows = {}
    for name, (words, rule) in contenders.items():
        found = measure(plan, rule, asked.replications, asked.years, asked.seed)
        row: dict[str, Any] = {"rule": words, "seconds": found["seconds"]}
        row["lots_released_mean"] = float(found["released"].mean())
        line = f"{name:20}"
        for column, target in zip(COLUMNS, published.get(name, [None] * 4), strict=True):
            values = np.asarray(found["values"][column])
            half = stats.t.ppf(0.995, len(values) - 1) * stats.sem(values)
            mean = float(values.mean())
            row[column] = {
                "mean": mean,
                "ci99": [mean - half, mean + half],
                "published": target,
                "inside": None if target is None else bool(abs(mean - target) <= half),
                "replications": values.tolist(),
            }
            line += f"  {mean:9.3f} +-{half:8.3f}"
            if target is not None:
                line += f" ({target:9.3f}){' ' if row[column]['inside'] else '!'}"
        print(f"{line}  {found['moves'] / found['seconds'] / 1e6:.2f} M moves/s", flush=True)
        rows[name] = row
    files = {asked.data: "FAB4R.TXT", str(asked.published): "PUBLISHED.JSON"}
    words = [files.get(word, word) for word in sys.argv[1:]]
    result = {
        "command": shlex.join(["python", "benchmarks/fab4r.py", *words]),
        "protocol": f"{asked.replications} replications of {asked.years:g} years, the first "
        "dropped; 99 % t-intervals",
        "seed": asked.seed,
        "trained": trained,
        "rows": rows,
    }
    asked.out.mkdir(parents=True, exist_ok=True)
    name = "fab4r_policies.json" if trained else "fab4r.json"
    write_json(asked.out / name, result | provenance.stamp())


if __name__ == "__main__":
    main()
