"""What asynchrony costs or brings: A3C over workers and delays, next to A2C.

    python benchmarks/asynchrony.py [--seeds 10]

Everything takes the same environment steps on CartPole-v1, with 16 environments in all. W workers
have 16 / W environments each and apply W gradients, each from a W-th of the data, where A2C with
all 16 applies one. So each A3C is set beside two A2Cs: the one with 16 environments, and one with
16 / W, which takes as many gradient steps of as many samples as the A3C but is never stale. Every
setting is run over the same learning rates; its best is shown, and all are in the result file.

Writes ``results/asynchrony.json`` and ``results/asynchrony.png``.
"""

import argparse
import dataclasses
from pathlib import Path
from typing import Any

import gymnax
import jax
import jax.numpy as jnp
import matplotlib.figure
import numpy as np
from matplotlib.ticker import EngFormatter

from rlax_lab import a2c, a3c, provenance
from rlax_lab.checkpoint import write_json
from rlax_lab.config import to_json
from rlax_lab.evaluate import evaluate
from rlax_lab.plots import look, save, style
from rlax_lab.statistics import bootstrap_interval, interquartile_mean, summarize

RESULTS = Path(__file__).parent / "results"
NUM_ENVS = 16
WORKERS = (1, 2, 4, 8, 16)
DELAYS = ("equal", "exponential", "lognormal", "uneven")
RATES = (1e-3, 2e-3, 3e-3, 5e-3)
REPORTS = 10
EPISODES = 16


def train(module: Any, config: Any, seeds: int) -> dict[str, Any]:
    """Returns over the run of every learning rate and seed, and the staleness seen."""
    env, env_params = gymnax.make("CartPole-v1")

    def learner(rate: jax.Array) -> Any:
        return module.make(env, dataclasses.replace(config, learning_rate=rate), env_params)

    def run(rate: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        one = learner(rate)
        chunk = one.num_updates // REPORTS

        def report(state: Any, i: jax.Array) -> tuple[Any, tuple[jax.Array, jax.Array]]:
            state, sums = jax.lax.scan(lambda s, _: one.update(s), state, length=chunk)
            eval_key = jax.random.fold_in(key, i)
            result = evaluate(one, state.params, env, eval_key, EPISODES, env_params, 500)
            staleness = sums.get("staleness", jnp.zeros(1))
            return state, (
                result.mean_return(),
                jnp.sum(staleness) / jnp.sum(sums["gradient_steps"]),
            )

        return jax.lax.scan(report, one.init(key), jnp.arange(REPORTS))[1]

    keys = jax.vmap(jax.random.key)(jnp.arange(seeds))
    over_seeds = jax.vmap(run, in_axes=(None, 0))
    returns, staleness = jax.jit(jax.vmap(over_seeds, in_axes=(0, None)))(jnp.array(RATES), keys)
    mean_over_run = np.asarray(returns, np.float64).mean(axis=2)
    best = int(np.argmax(interquartile_mean(mean_over_run)))
    return {
        "algo": module.__name__.rpartition(".")[2],
        "config": {k: v for k, v in to_json(config).items() if k != "learning_rate"},
        "learning_rates": list(RATES),
        "best_learning_rate": RATES[best],
        "mean_staleness": float(np.asarray(staleness)[best, :, 1:].mean()),
        "mean_return_over_run": summarize(mean_over_run[best]),
        "final_return": summarize(np.asarray(returns, np.float64)[best, :, -1]),
        "returns": np.asarray(returns, np.float64).round(2).tolist(),
    }


def experiments(total_steps: int) -> dict[str, tuple[Any, Any]]:
    """Module and configuration of every setting, by name."""
    found: dict[str, tuple[Any, Any]] = {}
    for workers in WORKERS:
        num_envs = NUM_ENVS // workers
        config = a2c.Config(total_steps=total_steps, num_envs=num_envs)
        found[f"a2c_{num_envs}"] = (a2c, config)
        for delays in DELAYS if workers > 1 else DELAYS[:1]:
            found[f"a3c_{workers}_{delays}"] = (
                a3c,
                a3c.Config(
                    total_steps=total_steps,
                    num_envs=NUM_ENVS,
                    num_workers=workers,
                    delays=delays,
                ),
            )
    return found


@style()
def draw(rows: dict[str, dict[str, Any]], out: Path) -> None:
    """Return over workers, staleness over workers, and curves at the most workers."""
    figure = matplotlib.figure.Figure(figsize=(13, 4.4))
    over, stale, curves = figure.subplots(1, 3)
    lines: dict[str, list[tuple[int, str]]] = {
        f"A3C, {delays} delays": [(w, f"a3c_{w}_{delays if w > 1 else DELAYS[0]}") for w in WORKERS]
        for delays in DELAYS
    }
    lines["A2C with 16 / W environments"] = [(w, f"a2c_{NUM_ENVS // w}") for w in WORKERS]
    for index, (label, points) in enumerate(lines.items()):
        line = {**look(index), "marker": "osD^v"[index]}
        workers = [w for w, _ in points]
        cells = [rows[name]["mean_return_over_run"] for _, name in points]
        low, high = zip(*(cell["ci95"] for cell in cells), strict=True)
        over.fill_between(workers, low, high, color=line["color"], alpha=0.15, linewidth=0)
        over.plot(workers, [c["iqm"] for c in cells], **line, label=label)
        if label.startswith("A3C"):
            seen = [rows[name]["mean_staleness"] for _, name in points]
            stale.plot(workers, seen, **line)
        row = rows[points[-1][1]]
        _curve(curves, row, line)
    whole = {**look(len(lines)), "marker": "x"}
    _curve(curves, rows[f"a2c_{NUM_ENVS}"], whole)
    over.plot([], [], **whole, label="A2C with 16 environments")
    over.set_ylabel("return over the whole run\nIQM, 95 % interval")
    stale.plot(WORKERS, [w - 1 for w in WORKERS], color="0.5", linestyle="--", label="W - 1")
    stale.legend()
    stale.set_ylabel("mean staleness, in gradient steps")
    for axes in (over, stale):
        axes.set_xscale("log", base=2)
        axes.set_xticks(WORKERS, [str(w) for w in WORKERS])
        axes.set_xlabel("W, workers")
    curves.set_xlabel("environment steps (per seed)")
    curves.xaxis.set_major_formatter(EngFormatter(sep=""))
    curves.set_ylabel(f"evaluation return at W = {WORKERS[-1]}")
    handles, labels = over.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3)
    save(figure, out)


def _curve(axes: Any, row: dict[str, Any], line: dict[str, Any]) -> None:
    best = row["learning_rates"].index(row["best_learning_rate"])
    returns = np.array(row["returns"][best]).T
    steps = np.arange(1, REPORTS + 1) * row["config"]["total_steps"] / REPORTS
    low, high = bootstrap_interval(returns)
    axes.fill_between(steps, low, high, color=line["color"], alpha=0.15, linewidth=0)
    axes.plot(steps, interquartile_mean(returns), **line, markersize=4)


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--total-steps", type=int, default=100_000)
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    arguments = parser.parse_args()
    rows = {}
    for name, (module, config) in experiments(arguments.total_steps).items():
        rows[name] = train(module, config, arguments.seeds)
        whole, final = rows[name]["mean_return_over_run"], rows[name]["final_return"]
        low, high = whole["ci95"]
        print(
            f"{name:20} best learning rate {rows[name]['best_learning_rate']:g}, return over the "
            f"run {whole['iqm']:.1f} [{low:.1f}, {high:.1f}], at the end {final['iqm']:.1f}, "
            f"staleness {rows[name]['mean_staleness']:.2f}",
            flush=True,
        )
    arguments.out.mkdir(parents=True, exist_ok=True)
    command = f"python benchmarks/asynchrony.py --seeds {arguments.seeds}"
    result = {"command": command, "seeds": arguments.seeds, "rows": rows, **provenance.stamp()}
    write_json(arguments.out / "asynchrony.json", result)
    draw(rows, arguments.out / "asynchrony.png")


if __name__ == "__main__":
    main()
