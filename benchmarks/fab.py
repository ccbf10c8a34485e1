"""How fast the fab simulator is, next to SimPy.

    python benchmarks/fab.py [--fabs 1 64 1024 8192] [--rounds 5] [--fab4r FAB4R.TXT] [--out DIR]

SimPy (the model that the tests compare every dispatch with) and ours run the same instances in
turns, in one process; a dispatch is one start of an operation of a lot. Random draws are not
counted against SimPy, and compile time is apart. SimPy runs on one core; ours on one and, dealt out
to all devices, on all. Ratios are of dispatches per second within a round, median and range over
the rounds. Then cost per dispatch over the size of the fab. Each part of the result file has its
own stamp.
"""

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlax_lab import commands

commands.use_all_cores()
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks import parts  # noqa: E402
from envs.fab import dynamics, figures, generator, library, rules, simulate  # noqa: E402
from envs.fab.describe import Plan  # noqa: E402
from tests import fab_simpy  # noqa: E402

COMMAND = "python benchmarks/fab.py"
RULE = "setup > FIFO"
FOREVER = 1_500_000_000
# `fab-20x300-conwip` without all that may be left out.
PLAIN = generator.Family(
    groups=(20, 20),
    products=(3, 3),
    operations=(300, 500),
    lots=(100, 100),
    conwip=True,
    cv=(0.0, 0.0),
)
# Tools and lots, five tools to a group.
SIZES = ((10, 50), (30, 150), (100, 400), (300, 1200), (1000, 4000))


class Timed(fab_simpy.Fab):
    """The SimPy model, with a watch on the time that draws take."""

    drawing = 0.0

    def _make_lot(self, *words: Any) -> Any:
        began = time.perf_counter()
        lot = super()._make_lot(*words)
        self.drawing += time.perf_counter() - began
        return lot


class SimPy:
    """A SimPy fab that goes on from call to call."""

    def __init__(self, plan: Plan, warm_days: float, days: float) -> None:
        self.day = round(86400 / plan.seconds)
        self.fab = Timed(
            plan.instance,
            jax.random.key(0),
            [fab_simpy.KEYS["setup"], fab_simpy.KEYS["FIFO"]],
            True,
            0.0,
            # The list of releases is made to here.
            round(days * self.day),
        )
        self.last = round((days - 1) * self.day)
        self.fab.env.run(until=round(warm_days * self.day))

    def rate(self, seconds: float = 1.5) -> float:
        """Dispatches per second of the next days."""
        dispatches, drawn = len(self.fab.dispatches), self.fab.drawing
        began = time.perf_counter()
        while time.perf_counter() - began < seconds:
            if self.fab.env.now >= self.last:
                raise RuntimeError("SimPy's list of releases is at its end")
            self.fab.env.run(until=self.fab.env.now + self.day // 4)
        spent = time.perf_counter() - began - (self.fab.drawing - drawn)
        return (len(self.fab.dispatches) - dispatches) / spent


class Ours:
    """Fabs in the middle of their work, run for a fixed number of steps."""

    def __init__(self, plan: Plan, fabs: int, warm_days: float, devices: int) -> None:
        instance = jax.tree.map(jnp.asarray, plan.instance)
        rule = rules.parse(RULE)
        warm = figures.Window(jnp.int32(0), jnp.int32(round(warm_days * 86400 / plan.seconds)))
        few = min(fabs, 16)
        keys = jax.random.split(jax.random.key(0), few)

        def begin(keys: jax.Array) -> Any:
            state = simulate.run(instance, rule, simulate.start(instance, keys, warm))
            # Copies of them: what they do next is the same, and so is what it costs.
            state = jax.tree.map(lambda x: jnp.tile(x, (fabs // few,) + (1,) * (x.ndim - 1)), state)
            end = jnp.full(fabs, FOREVER, jnp.int32)
            return state._replace(window=state.window._replace(end=end))

        self.steps = max(20, 100_000 // fabs // max(1, instance.slots // 50))

        def run(state: Any) -> tuple[Any, jax.Array]:
            def body(carry: tuple[Any, jax.Array], _: Any) -> Any:
                state, count = carry
                state, moves = jax.vmap(lambda s: dynamics.step(instance, rule, s))(state)
                return (state, count + moves.moved.sum(1)), None

            counts = jnp.zeros_like(state.count)
            return jax.lax.scan(body, (state, counts), length=self.steps)[0]

        if devices == jax.device_count():
            run = simulate.deal(run, fabs, (True,))
        self.state = jax.device_get(jax.jit(begin)(keys))
        self.bytes_per_fab = sum(x.nbytes for x in jax.tree.leaves(self.state)) / fabs
        # So that they lie where the compiled program leaves them.
        self.state, _ = jax.jit(run)(self.state)
        began = time.perf_counter()
        self.run = jax.jit(run, donate_argnums=0).lower(self.state).compile()
        self.compiled = time.perf_counter() - began
        self.rate()

    def rate(self, seconds: float = 0.5) -> float:
        """Dispatches per second."""
        total, began = 0, time.perf_counter()
        while True:
            self.state, count = self.run(self.state)
            total += int(count.sum())
            spent = time.perf_counter() - began
            if spent > seconds:
                return total / spent


def compare(
    plan: Plan, name: str, sizes: list[int], rounds: int, warm: float, days: float
) -> dict[str, Any]:
    """Rates of SimPy, in days of its fab from `warm` to at most `days`, and of ours in turns."""
    peer = SimPy(plan, warm, days)
    cases = [(fabs, devices) for fabs in sizes for devices in sorted({1, jax.device_count()})]
    cases = [(fabs, devices) for fabs, devices in cases if fabs % devices == 0]
    ours = {case: Ours(plan, case[0], warm, case[1]) for case in cases}
    rates: dict[tuple[int, int], list[float]] = {case: [] for case in cases}
    theirs: list[float] = []
    for _ in range(rounds):
        theirs.append(peer.rate())
        for case in cases:
            rates[case].append(ours[case].rate())
    print(f"{name}: SimPy {np.median(theirs):,.0f} dispatches/s")
    rows = []
    for case in cases:
        ratios = np.array(rates[case]) / np.array(theirs)
        row = {
            "fabs": case[0],
            "devices": case[1],
            "dispatches_per_second": float(np.median(rates[case])),
            "ratio_to_simpy": float(np.median(ratios)),
            "range": [float(ratios.min()), float(ratios.max())],
            "compile_seconds": ours[case].compiled,
            "bytes_per_fab": ours[case].bytes_per_fab,
        }
        rows.append(row)
        print(
            f"  {case[0]:5d} fabs on {case[1]} device{'s' * (case[1] > 1)}: "
            f"{row['dispatches_per_second']:12,.0f} dispatches/s, "
            f"{row['ratio_to_simpy']:.0f} times SimPy ({ratios.min():.0f} to {ratios.max():.0f}), "
            f"{row['bytes_per_fab'] / 1024:.1f} KiB a fab, "
            f"compiled in {row['compile_seconds']:.1f} s",
            flush=True,
        )
    return {"simpy_dispatches_per_second": float(np.median(theirs)), "rows": rows}


def scaling() -> list[dict[str, Any]]:
    """Cost per dispatch of plain fabs over their size."""
    rows = []
    for tools, lots in SIZES:
        family = generator.Family(
            groups=(tools // 5, tools // 5),
            tools=(5, 5),
            lots=(lots, lots),
            operations=(60, 60),
            conwip=True,
        )
        ours = Ours(generator.make(family, 0), 4, 3.0, 1)
        rate = float(np.median([ours.rate() for _ in range(5)]))
        row = {
            "tools": tools,
            "lots": lots,
            "microseconds_per_dispatch": 1e6 / rate,
            "nanoseconds_per_dispatch_and_entity": 1e9 / rate / (tools + lots),
        }
        rows.append(row)
        print(
            f"  {tools:4d} tools, {lots:4d} lots: {row['microseconds_per_dispatch']:.2f} us a "
            f"dispatch, {row['nanoseconds_per_dispatch_and_entity']:.2f} ns per lot and tool",
            flush=True,
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--fabs", type=int, nargs="+", default=[1, 64, 1024, 8192])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="+", help="names of fabs, or 'scaling'")
    parser.add_argument("--fab4r", help="FAB4r's data file")
    parser.add_argument("--missing", action="store_true", help="leave out what the file has")
    parser.add_argument("--tiny", action="store_true", help="little work, to see that it runs")
    parser.add_argument("--out", type=Path, default=parts.RESULTS)
    asked = parser.parse_args()
    names = [
        ("plain-20x300", 10.0, 10_000.0),
        ("seed-10x50", 5.0, 10_000.0),
        ("fab-20x300", 25.0, 115.0),
        ("fab-20x300-conwip", 10.0, 10_000.0),
    ]
    if asked.fab4r:
        names.append((f"fab4r:{asked.fab4r}", 20.0, 330.0))
    if asked.tiny:
        names, asked.fabs, asked.rounds, asked.only = [("seed-10x50", 0.1, 10_000.0)], [2], 1, None
    out = parts.path(asked.out, "fab_speed")
    for name, warm, days in names:
        label = name.partition(":")[0]
        if (asked.only and label not in asked.only) or (asked.missing and parts.made(out, label)):
            continue
        plan = generator.make(PLAIN, 0) if name == "plain-20x300" else library.load(name)
        found = compare(plan, label, asked.fabs, asked.rounds, warm, days)
        parts.keep(out, label, {"command": COMMAND, "rule": RULE, **found})
    wanted = not asked.tiny and (not asked.only or "scaling" in asked.only)
    if wanted and not (asked.missing and parts.made(out, "scaling")):
        print("cost over size, 4 fabs at once:")
        parts.keep(out, "scaling", {"command": COMMAND, "rows": scaling()})


if __name__ == "__main__":
    main()
