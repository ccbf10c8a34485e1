"""How fast the learners are beside others' at the same work, and how far from the limit.

    python benchmarks/throughput.py [CASE ...] [--peers PYTHON] [--purejaxrl PATH] [--rounds 5]
        [--missing] [--out DIR]

Writes ``throughput.json``, or ``throughput_gpu.json``, each case with its own stamp. Every side is
a process of its own that compiles first and then does the same piece of work, round after round, in
turn with the others: on a machine whose speed drifts, only ratios within a round mean something.
`make bench` makes the environment of the peers, whose gymnax is older than ours, and runs all of
it. The limit is what the bare matrix products of PPO's update take.
"""

import contextlib
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

WORKER = Path(__file__).with_name("throughput_worker.py")
ROOT = WORKER.parent.parent
sys.path.insert(0, str(ROOT))
from benchmarks import parts  # noqa: E402
from rlax_lab import commands  # noqa: E402

LIMIT = "limit"  # the part of the results beside the cases
OURS = ("ours", "our_ppo")  # sides that this project is
PPO = {"num_epochs": 4, "num_minibatches": 4, "num_steps": 128}


def ppo_case(
    num_envs: int, env: str = "CartPole-v1", devices: int = 1, least: int = 1
) -> dict[str, Any]:
    """PPO with purejaxrl's sizes: 128 steps, 4 epochs of 4 minibatches, towers of 64 tanh units."""
    batch = num_envs * 128
    updates = max(least, round(2**18 / batch))
    return {
        "algo": "ppo",
        "env": env,
        "devices": devices,
        "steps": updates * batch,
        "gradient_steps": updates * 16,
        "gradient_steps_per_update": 16,
        "ours": {**PPO, "num_envs": num_envs, "learning_rate": 2.5e-4, "entropy_coef": 0.01},
        "purejaxrl_config": {
            "LR": 2.5e-4,
            "NUM_ENVS": num_envs,
            "NUM_STEPS": 128,
            "UPDATE_EPOCHS": 4,
            "NUM_MINIBATCHES": 4,
            "GAMMA": 0.99,
            "GAE_LAMBDA": 0.95,
            "CLIP_EPS": 0.2,
            "ENT_COEF": 0.01,
            "VF_COEF": 0.5,
            "MAX_GRAD_NORM": 0.5,
            "ACTIVATION": "tanh",
            "ENV_NAME": env,
            "ANNEAL_LR": True,
        },
        "rejax_config": {
            **PPO,
            "num_envs": num_envs,
            "learning_rate": 2.5e-4,
            "max_grad_norm": 0.5,
            "agent_kwargs": {"activation": "tanh"},
        },
        "sides": ("ours", "purejaxrl", "rejax"),
    }


def dqn_case(peer: str) -> dict[str, Any]:
    """Ten environments and a batch every step of theirs, as purejaxrl; five batches, as rejax."""
    updates = 5000
    batch, buffer, each = {"purejaxrl": (128, 10_000, 1), "rejax": (100, 50_000, 5)}[peer]
    sizes, activation = {"purejaxrl": ((120, 84), "relu"), "rejax": ((64, 64), "relu")}[peer]
    return {
        "algo": "dqn",
        "env": "CartPole-v1",
        "steps": updates * 10,
        "gradient_steps": updates * each,
        "gradient_steps_per_update": each,
        "ours": {
            "num_envs": 10,
            "num_steps": 1,
            "num_gradient_steps": each,
            "batch_size": batch,
            "buffer_size": buffer,
            "learning_starts": 1000,
            "hidden_sizes": sizes,
            "activation": activation,
        },
        "purejaxrl_config": {
            "NUM_ENVS": 10,
            "BUFFER_SIZE": buffer,
            "BUFFER_BATCH_SIZE": batch,
            "EPSILON_START": 1.0,
            "EPSILON_FINISH": 0.05,
            "EPSILON_ANNEAL_TIME": 25e4,
            "TARGET_UPDATE_INTERVAL": 500,
            "LR": 2.5e-4,
            "LEARNING_STARTS": 0,
            "TRAINING_INTERVAL": 10,
            "GAMMA": 0.99,
            "TAU": 1.0,
            "ENV_NAME": "CartPole-v1",
        },
        "rejax_config": {
            "num_envs": 10,
            "num_epochs": each,
            "batch_size": batch,
            "buffer_size": buffer,
            "fill_buffer": 0,
            "target_update_freq": 200,
            "agent_kwargs": {"activation": "relu"},
        },
        "sides": ("ours", peer),
    }


def pendulum_case() -> dict[str, Any]:
    """Continuous PPO: 100 environments, 100 steps, 10 epochs of 10 minibatches."""
    sizes = {"num_envs": 100, "num_steps": 100, "num_epochs": 10, "num_minibatches": 10}
    updates = 10
    return {
        "algo": "ppo",
        "env": "Pendulum-v1",
        "steps": updates * 10_000,
        "gradient_steps": updates * 100,
        "gradient_steps_per_update": 100,
        "ours": {**sizes, "learning_rate": 1e-3},
        "rejax_config": {
            **sizes,
            "learning_rate": 1e-3,
            "max_grad_norm": 0.5,
            "agent_kwargs": {"activation": "tanh"},
        },
        "sides": ("ours", "rejax"),
    }


def sbx_ppo_case() -> dict[str, Any]:
    """PPO with 8 environments, as many as those that step them one by one are used with."""
    updates, num_envs = 8, 8
    return {
        "algo": "ppo",
        "env": "CartPole-v1",
        "steps": updates * num_envs * 128,
        "gradient_steps": updates * 16,
        "gradient_steps_per_update": 16,
        "ours": {**PPO, "num_envs": num_envs, "learning_rate": 2.5e-4},
        "sb3_config": {
            "n_steps": 128,
            "batch_size": num_envs * 128 // 4,
            "n_epochs": 4,
            "learning_rate": 2.5e-4,
        },
        "sides": ("ours", "sbx", "sb3"),
    }


def sbx_dqn_case() -> dict[str, Any]:
    """DQN as rejax has it, in fewer steps."""
    updates = 400
    return dqn_case("rejax") | {
        "steps": updates * 10,
        "gradient_steps": updates * 5,
        "sb3_config": {
            "batch_size": 100,
            "buffer_size": 50_000,
            "train_freq": 1,
            "gradient_steps": 5,
            "learning_starts": 1000,
            "policy_kwargs": {"net_arch": [64, 64]},
        },
        "sides": ("ours", "sbx", "sb3"),
    }


def a2c_case() -> dict[str, Any]:
    """A2C with SB3's sizes: 8 environments, 5 steps."""
    return {
        "algo": "a2c",
        "env": "CartPole-v1",
        "steps": 8000,
        "gradient_steps": 200,
        "gradient_steps_per_update": 1,
        "ours": {"num_envs": 8, "num_steps": 5},
        "sb3_config": {"n_steps": 5},
        "sides": ("ours", "sb3"),
    }


def gradient_case(algo: str) -> dict[str, Any]:
    """An actor-critic beside our PPO, each step in one gradient; A3C has 4 workers."""
    workers = {"a2c": 1, "a3c": 4}[algo]
    sizes, updates = {"num_envs": 2048, "num_steps": 32}, 10
    return {
        "algo": algo,
        "env": "CartPole-v1",
        "steps": updates * 2048 * 32,
        "gradient_steps": updates * workers,
        "gradient_steps_per_update": workers,
        "ours": sizes | ({"num_workers": workers} if algo == "a3c" else {}),
        "our_ppo": sizes | {"num_epochs": 1, "num_minibatches": workers},
        "sides": ("ours", "our_ppo"),
    }


def cases(devices: int, gpu: bool = False) -> dict[str, dict[str, Any]]:
    """By name; PPO in large batches uses `devices`, each a part of the environments.

    A GPU is given more updates in one piece of work, and a batch that a CPU has no use for.
    """
    found = {"ppo_4": ppo_case(4)}
    sizes = (64, 2048, 16384, *((65536,) if gpu else ()))
    found |= {f"ppo_{n}": ppo_case(n, "CartPole-v1", devices, 16 if gpu else 1) for n in sizes}
    if devices > 1:
        found["ppo_2048_one_device"] = {**ppo_case(2048), "sides": ("ours", "purejaxrl")}
    found["ppo_pendulum"] = pendulum_case()
    found["ppo_breakout"] = ppo_case(64, "Breakout-MinAtar")
    found["dqn_as_purejaxrl"] = dqn_case("purejaxrl")
    found["dqn_as_rejax"] = dqn_case("rejax")
    found["a2c"] = a2c_case()
    found["a2c_gradients"] = gradient_case("a2c")
    found["a3c_gradients"] = gradient_case("a3c")
    found["ppo_as_sbx"] = sbx_ppo_case()
    found["dqn_as_sbx"] = sbx_dqn_case()
    return found


def installed(python: str) -> list[str]:
    """Which peers a Python has; says which not."""
    packages = {"rejax": "rejax", "sb3": "stable_baselines3", "sbx": "sbx"}
    code = "import sys, importlib.util as u; print(*map(bool, map(u.find_spec, sys.argv[1:])))"
    said = subprocess.run(
        [python, "-c", code, *packages.values()], capture_output=True, text=True, check=True
    )
    there = [answer == "True" for answer in said.stdout.split()]
    for package in itertools.compress(packages.values(), [not x for x in there]):
        print(f"{package} is not installed and left out.", file=sys.stderr)
    return list(itertools.compress(packages, there))


class Side:
    """A worker process."""

    def __init__(self, python: str, side: str, case: dict[str, Any]) -> None:
        environment = dict(os.environ)
        if side in OURS:
            environment["PYTHONPATH"] = f"{ROOT}{os.pathsep}{environment.get('PYTHONPATH', '')}"
        else:
            environment.pop("PYTHONPATH", None)
        self.log = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self.process = subprocess.Popen(
            [python, str(WORKER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
            env=environment,
        )
        self.ready = self.ask(json.dumps((side, case)))

    def ask(self, line: str = "") -> dict[str, Any]:
        """Sends a line and waits for the answer."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        for answer in self.process.stdout:
            if answer.startswith("{"):
                found: dict[str, Any] = json.loads(answer)
                return found
        self.log.seek(0)
        raise RuntimeError(self.log.read()[-2000:])

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


def in_turns(sides: dict[Any, Side], rounds: int) -> dict[Any, list[dict[str, Any]]]:
    """What each side answers to a piece of work, round by round."""
    answers: dict[Any, list[dict[str, Any]]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, side in sides.items():
            answers[name].append(side.ask())
    return answers


def compare(case: dict[str, Any], pythons: dict[str, str], rounds: int) -> dict[str, Any]:
    """All sides of a case, round by round."""
    with contextlib.ExitStack() as stack:
        sides = {
            name: stack.enter_context(contextlib.closing(Side(pythons[name], name, case)))
            for name in case["sides"]
            if name in pythons
        }
        mine = sides["ours"].ready
        for name, side in sides.items():
            for unit in ("steps", "gradient_steps"):
                if abs(side.ready[unit] - mine[unit]) > 0.01 * mine[unit]:
                    raise RuntimeError(f"{name} takes {side.ready[unit]} {unit}, ours {mine[unit]}")
        answers = in_turns(sides, rounds)
    seconds = {name: [answer.pop("seconds") for answer in answers[name]] for name in sides}
    return {
        "rounds": rounds,
        "steps": mine["steps"],
        "gradient_steps": mine["gradient_steps"],
        "sides": {
            name: {
                "seconds": seconds[name],
                "steps_per_second": mine["steps"] / float(np.median(seconds[name])),
                "prepared_seconds": sides[name].ready["prepared"],
                **answers[name][-1],  # its peaks
                **({"ratio": ratio(seconds[name], seconds["ours"])} if name != "ours" else {}),
            }
            for name in sides
        },
    }


def ratio(theirs: list[float], ours: list[float]) -> dict[str, float]:
    """How many times faster ours is: median and range of the rounds' own ratios."""
    each = np.array(theirs) / np.array(ours)
    return {"median": float(np.median(each)), "low": float(each.min()), "high": float(each.max())}


class Product(NamedTuple):
    """A matrix product ``[rows, inner] x [inner, columns]``, and its two gradients."""

    inner: int
    columns: int
    into: bool  # whether the gradient of the input is needed


def products(observation: int, outputs: int, hidden: tuple[int, ...] = (64, 64)) -> list[Product]:
    """What the two towers of an actor-critic multiply for each row."""
    found = []
    for last in (outputs, 1):
        sizes = (observation, *hidden, last)
        layers = enumerate(itertools.pairwise(sizes))
        found += [Product(a, b, i > 0) for i, (a, b) in layers]
    return found


def operations(rows: int, found: list[Product]) -> int:
    """Floating-point operations of one forward and backward pass of `rows` rows."""
    return sum(2 * rows * p.inner * p.columns * (3 if p.into else 2) for p in found)


def limit(num_envs: int = 2048, devices: int = 1) -> dict[str, Any]:
    """Seconds of one PPO update's matrix products alone, at the best layout and size of chunk."""
    rows, passes = num_envs * 128, 4
    wanted = products(4, 2)

    def one(chunk: int, features_first: bool) -> Any:
        def product(a: Any, b: Any, contract: tuple[int, int]) -> Any:
            return jax.lax.dot_general(a, b, (((contract[0],), (contract[1],)), ((), ())))

        def body(carry: Any, nothing: jax.Array) -> tuple[Any, None]:
            arrays, total = carry
            new, touched = [], []
            for (x, w, g), t, p in zip(arrays, total, wanted, strict=True):
                # All depend on the last round, so that no product is computed once for all.
                x, w, g = (a.at[0, 0].add(nothing * t[0, 0]) for a in (x, w, g))
                touched.append((x, w, g))
                if features_first:
                    y, dw = product(w, x, (0, 0)), product(x, g, (1, 1))
                    dx = product(w, g, (1, 0)) if p.into else None
                else:
                    y, dw = product(x, w, (1, 0)), product(x, g, (0, 0))
                    dx = product(g, w, (1, 1)) if p.into else None
                new.append(dw + y[0, 0] + (0 if dx is None else dx[0, 0]))
            return (touched, new), None

        def shape(n: int) -> tuple[int, int]:
            return (n, chunk) if features_first else (chunk, n)

        key = jax.random.key(0)
        arrays = [
            (
                jax.random.normal(key, shape(p.inner)),
                jax.random.normal(key, (p.inner, p.columns)),
                jax.random.normal(key, shape(p.columns)),
            )
            for p in wanted
        ]
        start = [jnp.zeros((p.inner, p.columns)) for p in wanted]
        length = rows * passes // chunk // devices

        zeros = jnp.zeros(length)  # which the compiler does not know

        def run(arrays: Any, zeros: jax.Array) -> Any:
            return jax.lax.scan(body, (arrays, start), zeros)[0][1]

        if devices == 1:
            return partial(jax.jit(run), arrays, zeros)
        mesh = jax.make_mesh((devices,), ("devices",))
        spec = jax.sharding.PartitionSpec
        run = jax.shard_map(run, mesh=mesh, in_specs=spec(), out_specs=spec(), check_vma=False)
        return partial(jax.jit(run), arrays, zeros)

    best: dict[str, Any] = {}
    for chunk in (1024, 4096, 16384, 65536):
        if chunk * devices > rows * passes:
            continue
        for features_first in (False, True):
            run = one(chunk, features_first)
            jax.block_until_ready(run())
            times = []
            for _ in range(3):
                start = time.perf_counter()
                jax.block_until_ready(run())
                times.append(time.perf_counter() - start)
            if min(times) < best.get("seconds", np.inf):
                layout = "features first" if features_first else "rows first"
                best = {"seconds": min(times), "chunk": chunk, "layout": layout}
    flops = passes * operations(rows, wanted)
    return best | {"gflops": flops / best["seconds"] / 1e9, "num_envs": num_envs}


def table(results: dict[str, Any]) -> str:
    """The results in Markdown."""
    lines = [
        "| case | side | steps/s | ours is faster by (range) | compiled and run once, s | MB |",
        "|---|---|---|---|---|---|",
    ]
    for name, result in results.items():
        for side, row in result["sides"].items():
            faster = row.get("ratio")
            shown = (
                ""
                if faster is None
                else (f"{faster['median']:.2f} ({faster['low']:.2f} to {faster['high']:.2f})")
            )
            lines.append(
                f"| {name} | {side} | {row['steps_per_second']:,.0f} | {shown} "
                f"| {row['prepared_seconds']:.1f} | {row['peak_mb']:.0f} |"
            )
    return "\n".join(lines)


def main() -> None:
    commands.use_all_cores()
    gpu, devices = jax.default_backend() != "cpu", jax.device_count()
    known: dict[str, Any] = cases(devices, gpu) | {LIMIT: None}
    parser = parts.parser(__doc__, "case", known)
    parts.add_peers(parser)
    parser.add_argument("--list", action="store_true", help="only print the cases")
    asked = parser.parse_args()
    if asked.list:
        print("\n".join(known))
        return
    pythons = dict.fromkeys(OURS, sys.executable)
    if asked.peers:
        pythons |= dict.fromkeys(installed(asked.peers), asked.peers)
        if asked.purejaxrl:
            pythons["purejaxrl"] = asked.peers
    path = parts.path(asked.out, "throughput")
    for name in parts.wanted(asked, known, path):
        if name == LIMIT:
            found: dict[str, Any] = measure_limit(devices, 64 if asked.tiny else 2048)
            print(f"limit of PPO's update at {found['num_envs']} environments: {found}")
        else:
            case = known[name] | {"purejaxrl": str(asked.purejaxrl)}
            found = compare(shrunk(case) if asked.tiny else case, pythons, asked.rounds)
            print(table({name: found}), flush=True)
        parts.keep(path, name, found | {"command": "make bench", "tiny": asked.tiny})


def shrunk(case: dict[str, Any]) -> dict[str, Any]:
    """As little work as a case can be."""
    updates = case["gradient_steps"] // case["gradient_steps_per_update"]
    return case | {
        "steps": case["steps"] // updates,
        "gradient_steps": case["gradient_steps_per_update"],
    }


def measure_limit(devices: int, num_envs: int) -> dict[str, Any]:
    """`limit` on one device or on all, whichever is faster."""
    found = [limit(num_envs, n) for n in sorted({1, devices})]
    return min(found, key=lambda x: x["seconds"])


if __name__ == "__main__":
    main()
