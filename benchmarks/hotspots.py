"""Which operations of a step take the time.

    python benchmarks/hotspots.py [ppo] [dqn] [fab] [--rows 20] [--out DIR]

Compiles the step, runs it under JAX's profiler and adds up what each operation of the compiled
program took itself, without those that it calls. Prints the longest and where in our code they come
from, and writes a stamped ``hotspots.json``, or ``hotspots_gpu.json``. The profiler slows small
operations down: shares are for finding what to change, and seconds are of `throughput.py`.
"""

import re
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks import parts
from benchmarks.throughput import cases
from rlax_lab import cli, train
from rlax_lab.packages import ours

# The compiled program and its first arguments; what it returns first are the next ones.
Step = tuple[Any, Any, tuple[Any, ...]]


class Event(NamedTuple):
    """A stretch of a thread's time, in nanoseconds; those of one thread nest."""

    name: str
    start: float
    duration: float


def learner(case: str, tiny: bool) -> Step:
    """Updates of the learner in a case of `throughput.py`, on one device."""
    asked = cases(1)[case]
    env, env_params = ours("registry").make(asked["env"])
    module = cli.ALGORITHMS[asked["algo"]]
    config = module.Config(**asked["ours"], total_steps=10**9)
    made = module.make(env, config, env_params)
    states = jax.jit(jax.vmap(made.init))(train.seed_keys(0, 1))
    updates = max(1, 20_000 // made.steps_per_update) if not tiny else 1
    number = jnp.int32(updates)
    return train.advance(made).lower(states, number).compile(), states, (number,)


def fab(tiny: bool) -> Step:
    """Steps of many fabs at once, from a day into their work on."""
    simulate, dynamics = ours("fab.simulate"), ours("fab.dynamics")
    rules, figures = ours("fab.rules"), ours("fab.figures")
    plan = ours("fab.library").load("seed-10x50" if tiny else "fab-20x300")
    instance, rule = jax.tree.map(jnp.asarray, plan.instance), rules.parse("setup > FIFO")
    day = round(86400 / plan.seconds)
    keys = jax.random.split(jax.random.key(0), 4 if tiny else 1024)
    window = figures.Window(jnp.int32(0), jnp.int32(day))
    state = simulate.run(instance, rule, simulate.start(instance, keys, window))
    forever = jnp.full(len(keys), 2**30, jnp.int32)
    state = state._replace(window=state.window._replace(end=forever))

    def steps(state: Any, number: jax.Array) -> tuple[Any, None]:
        one = jax.vmap(lambda state: dynamics.step(instance, rule, state)[0])
        return jax.lax.fori_loop(0, number, lambda _, state: one(state), state), None

    number = jnp.int32(1 if tiny else 200)
    return jax.jit(steps, donate_argnums=0).lower(state, number).compile(), state, (number,)


STEPS: dict[str, Callable[[bool], Step]] = {
    "ppo": lambda tiny: learner("ppo_4" if tiny else "ppo_2048", tiny),
    "ppo_4": lambda tiny: learner("ppo_4", tiny),
    "dqn": lambda tiny: learner("dqn_as_purejaxrl", tiny),
    "fab": fab,
}


def operations(step: Step) -> dict[str, list[float]]:
    """By operation, how often it ran and the seconds that it took itself."""
    compiled, state, rest = step
    state = compiled(state, *rest)[0]  # the first run may still set things up
    jax.block_until_ready(state)
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder, profiler_options=options):
            jax.block_until_ready(compiled(state, *rest))
        (path,) = Path(folder).rglob("*.xplane.pb")
        data = jax.profiler.ProfileData.from_file(str(path))
    found: dict[str, list[float]] = defaultdict(lambda: [0, 0.0])
    for plane in data.planes:
        for line in plane.lines:
            events = []
            for event in line.events:
                name = dict(event.stats).get("hlo_op")
                if name:
                    events.append(Event(str(name), event.start_ns, event.duration_ns))
            for name, nanoseconds in own_times(events):
                found[name][0] += 1
                found[name][1] += nanoseconds / 1e9
    return dict(found)


def own_times(events: Iterable[Event]) -> list[tuple[str, float]]:
    """What each event of a thread took, without the events inside it."""
    own: list[list[Any]] = []
    around: list[tuple[float, int]] = []  # when the events around this one end, and which they are
    for event in sorted(events, key=lambda e: (e.start, -e.duration)):
        while around and around[-1][0] <= event.start:
            around.pop()
        if around:
            own[around[-1][1]][1] -= event.duration
        around.append((event.start + event.duration, len(own)))
        own.append([event.name, event.duration])
    return [(name, time) for name, time in own]


def origins(text: str) -> dict[str, str]:
    """By operation of a compiled program's text, the path of functions that it comes from."""
    found = re.findall(r'^\s*(?:ROOT )?%?([\w.\-]+) = .*op_name="([^"]*)"', text, re.MULTILINE)
    return dict(found)


def profile(name: str, rows: int, tiny: bool) -> dict[str, Any]:
    """The longest operations of a step; prints them too."""
    step = STEPS[name](tiny)
    where = origins(step[0].as_text())
    found = operations(step)
    total = sum(seconds for _, seconds in found.values())
    longest = sorted(found.items(), key=lambda item: -item[1][1])[:rows]
    table = [
        {
            "operation": operation,
            "runs": int(runs),
            "seconds": seconds,
            "share": seconds / total,
            "origin": where.get(operation, ""),
        }
        for operation, (runs, seconds) in longest
    ]
    runs = sum(runs for runs, _ in found.values())
    print(f"{name}: {len(found)} operations ran {runs:,} times in {total:.3f} s", flush=True)
    for row in table:
        print(
            f"  {row['share']:6.1%} {row['runs']:8,} x {1e6 * row['seconds'] / row['runs']:8.1f} us"
            f"  {row['operation']}  {row['origin'][-100:]}",
            flush=True,
        )
    return {"runs": int(runs), "seconds": total, "operations": table}


def main() -> None:
    parser = parts.parser(__doc__, "step", STEPS)
    parser.add_argument("--rows", type=int, default=20, help="operations to show")
    asked = parser.parse_args()
    path = parts.path(asked.out, "hotspots")
    for name in parts.wanted(asked, STEPS, path):
        parts.keep(path, name, profile(name, asked.rows, asked.tiny) | {"tiny": asked.tiny})


if __name__ == "__main__":
    main()
