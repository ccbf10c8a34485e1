"""Whether the work in process of a trained policy stays bounded where its rule's does.

    python benchmarks/fab_stability.py RUN [--fab FAB] [--rule RULE] [--fabs 32] [--years 10]
        [--out DIR]

Held-out fabs of the family that the run was trained on, or one fab that is none of a family with as
many draws, each simulated for years from empty, under the policy and under a rule with the same
draws. Lots in the fab, on average over every quarter of a year; and by how much they grew between
the two halves of the years after the first. Writes a stamped ``fab_stability.json`` and a picture,
for one fab ``fab_stability_NAME.json``.
"""

import argparse
import shlex
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from rlax_lab import commands, fab_commands, fab_evaluate, fab_train, plots, provenance
from rlax_lab.checkpoint import write_json
from rlax_lab.errors import InputError
from rlax_lab.packages import ours

QUARTERS, DAYS = 4, 365.0


def measure(make: Any, params: Any, keys: jax.Array, years: float) -> np.ndarray:
    """Lots in fabs ``[K]`` on average over each quarter ``[quarters, K]``.

    Args:
      make: ``params -> rule``.
      params, keys: of the fabs ``[K]``.
      years: from empty.
    """
    figures, simulator = ours("fab.figures"), ours("fab.simulate")
    window_totals = ours("fab.env").window_totals
    length = DAYS / QUARTERS

    def quarter(params: Any, fab: Any) -> tuple[Any, jax.Array]:
        start = fab.window.end
        window = figures.Window(start, start + jnp.round(length * params.day).astype(jnp.int32))
        fab = fab._replace(window=window, figures=figures.Figures.zeros(params.instance))
        fab = simulator.until_the_end(params.instance, make(params), fab)
        return fab, window_totals(params, fab).lot_time / (window.end - window.start)

    empty = figures.Window(jnp.int32(0), jnp.int32(0))
    state = jax.jit(simulator.start, static_argnums=3)(params.instance, keys, empty, True)
    step = jax.jit(simulator.deal(jax.vmap(quarter), len(keys), (True, True)))
    found = []
    for number in range(round(years * QUARTERS)):
        state, lots = step(params, state)
        found.append(np.asarray(lots))
        if bool(state.late.any()):
            raise RuntimeError(f"{int(state.late.sum())} fabs overflow in quarter {number + 1}")
        if number % QUARTERS == QUARTERS - 1:
            year = number // QUARTERS + 1
            print(f"year {year}: {np.mean(found[-QUARTERS:]):.2f} lots on average", flush=True)
    return np.array(found)


def growth(lots: np.ndarray) -> dict[str, Any]:
    """By how much the last half of the quarters ``[quarters, K]`` after the first year is above the
    first half: its mean over fabs, as part of that half, with a 95 % interval."""
    early, late = (half.mean(0) for half in np.array_split(lots[QUARTERS:], 2))
    return fab_evaluate.mean_of(late / early - 1)


@plots.style()
def draw(found: dict[str, np.ndarray], out: Path) -> Path:
    """Lots over the years, of all fabs together and of the fullest one."""
    figure = Figure(figsize=(7, 3.4))
    axes = figure.subplots()
    for i, (name, lots) in enumerate(found.items()):
        years = (np.arange(len(lots)) + 0.5) / QUARTERS
        look = plots.look(i)
        axes.plot(years, lots.mean(1), **look, label=f"{name}: mean of {lots.shape[1]} fabs")
        axes.plot(years, lots.max(1), **(look | {"linewidth": 0.8}), label="the fullest")
    axes.set_ylim(bottom=0)
    axes.set_xlabel("years")
    axes.set_ylabel("lots in the fab")
    axes.legend(fontsize=8, ncols=len(found))
    return plots.save(figure, out)


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("run", type=Path, help="folder of a training run, or an exported policy")
    parser.add_argument("--fab", help="by default the one, or the family, that it was trained on")
    parser.add_argument("--rule", help="by default the one that the policy started from")
    parser.add_argument("--fabs", type=int, default=32)
    parser.add_argument("--years", type=int, default=10)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    asked = parser.parse_args()
    commands.use_all_cores()
    record = fab_train.read_record(asked.run)
    name = asked.rule or fab_train.read_config(record).rule
    generator, fab, stem = ours("fab.generator"), asked.fab or record["env"], "fab_stability"
    if fab in generator.FAMILIES:
        family = generator.FAMILIES[fab]
        plans = [generator.make(family, seed, held_out=True) for seed in range(asked.fabs)]
    else:
        try:
            plans = [fab_commands.load_fab(fab)] * asked.fabs
        except InputError as error:
            parser.error(str(error))
        fab = plans[0].name
        stem += f"_{fab}"
    params, _ = fab_evaluate.stack(plans, fab_evaluate.Settings())
    keys = jnp.stack([jax.random.key(seed) for seed in range(asked.fabs)])
    rule = ours("fab.rules").parse(name)
    policy = fab_train.policy(asked.run, plans[0])
    found = {
        name: measure(lambda _: rule, params, keys, asked.years),
        "policy": measure(policy, params, keys, asked.years),
    }
    asked.out.mkdir(parents=True, exist_ok=True)
    words = [fab if word == asked.fab else word for word in sys.argv[1:]]
    result = {
        "command": shlex.join(["python", "benchmarks/fab_stability.py", *words]),
        "fab": fab,
        "fabs": asked.fabs,
        "years": asked.years,
        "trained": record,
        "growth": {name: growth(lots) for name, lots in found.items()},
        "fullest": {name: float(lots[QUARTERS:].max()) for name, lots in found.items()},
        "lots_by_year": {
            name: lots.mean(1).reshape(-1, QUARTERS).mean(1).tolist()
            for name, lots in found.items()
        },
    }
    write_json(asked.out / f"{stem}.json", result | provenance.stamp())
    print(result["growth"])
    draw(found, asked.out / f"{stem}.png")


if __name__ == "__main__":
    main()
