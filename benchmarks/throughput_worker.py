"""One side of a comparison: compiles, then does the same piece of work whenever it is asked.

Run by `throughput.py`, for a peer with the peers' own Python. It reads a case (JSON) from its
standard input, prints what it prepared, and then for every line that it is sent does one piece of
work and prints the seconds that it took.
"""

import importlib
import json
import os
import resource
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from unittest import mock

# What a piece of work is, in the units that all sides share.
Work = tuple[Callable[[], Any], int, int]  # do it; its environment steps; its gradient steps


def ours(case: dict[str, Any]) -> Work:
    import jax

    from rlax_lab import cli, packages, shards, train

    devices = case.get("devices", 1)
    jax.config.update("jax_num_cpu_devices", devices)  # which counts for nothing on a GPU
    env, env_params = packages.ours("registry").make(case["env"])
    module = cli.ALGORITHMS[case["algo"]]
    fields = {k: tuple(v) if isinstance(v, list) else v for k, v in case["ours"].items()}
    config = module.Config(**fields, total_steps=10**9)
    parts = devices if case.get("seeds", 1) == 1 else 1
    learner = shards.spread(lambda config: module.make(env, config, env_params), config, parts)
    seeds = case.get("seeds", 1)
    mesh = shards.deal(seeds, parts, devices)
    keys = train.seed_keys(0, seeds)
    with ThreadPoolExecutor() as pool:
        init, chunk, _ = train.compiling(pool, learner, keys, mesh)
        assert init is not None
        states, advance = shards.place(init.result()(keys), mesh, learner), chunk.result()
    updates = max(1, round(case["steps"] / learner.steps_per_update))
    number = jax.numpy.int32(updates)
    held = [states]

    def work() -> None:
        held[0], sums, _ = advance(held[0], number)
        jax.block_until_ready((held[0], sums))

    gradient_steps = updates * case["gradient_steps_per_update"]
    return work, seeds * updates * learner.steps_per_update, seeds * gradient_steps


def our_ppo(case: dict[str, Any]) -> Work:
    """The PPO that another learner of ours is measured beside."""
    return ours(case | {"algo": "ppo", "ours": case["our_ppo"]})


def purejaxrl(case: dict[str, Any]) -> Work:
    import jax

    sys.path.insert(0, os.path.join(case["purejaxrl"], "purejaxrl"))
    # What it imports for other environments and for logging.
    for name in ("wandb", "navix", "brax", "brax.envs.wrappers", "brax.envs.wrappers.training"):
        sys.modules[name] = mock.MagicMock()
    jax.tree_map = jax.tree.map  # which newer versions of jax dropped
    config = {**case["purejaxrl_config"], "TOTAL_TIMESTEPS": case["steps"]}
    if case["algo"] == "ppo":
        import ppo

        train = jax.jit(ppo.make_train({**config, "DEBUG": False}))
    else:
        import dqn

        train = jax.jit(dqn.make_train(config))
    number = [0]

    def work() -> None:
        number[0] += 1
        jax.block_until_ready(train(jax.random.PRNGKey(number[0])))

    return work, case["steps"], case["gradient_steps"]


def rejax(case: dict[str, Any]) -> Work:
    import jax
    import rejax as peer

    algo = peer.get_algo(case["algo"]).create(
        env=case["env"],
        total_timesteps=case["steps"],
        eval_freq=case["steps"],
        skip_initial_evaluation=True,
        **case["rejax_config"],
    )
    # Its evaluations would be timed as well.
    algo = algo.replace(eval_callback=lambda *_: ())
    train = jax.jit(algo.train)
    number = [0]

    def work() -> None:
        number[0] += 1
        jax.block_until_ready(train(jax.random.PRNGKey(number[0])))

    return work, case["steps"], case["gradient_steps"]


def sb3(case: dict[str, Any], package: str = "stable_baselines3") -> Work:
    import gymnasium
    import torch
    from stable_baselines3.common.vec_env import DummyVecEnv

    torch.set_num_threads(1)  # its networks are too small for more
    make = lambda: gymnasium.make(case["env"])  # noqa: E731
    envs = DummyVecEnv([make] * case["ours"]["num_envs"])
    learner = getattr(importlib.import_module(package), case["algo"].upper())
    model = learner("MlpPolicy", envs, device="cpu", **case["sb3_config"])

    def work() -> None:
        model.learn(case["steps"], reset_num_timesteps=False)

    return work, case["steps"], case["gradient_steps"]


def sbx(case: dict[str, Any]) -> Work:
    """What it shares with SB3, with learners in JAX."""
    return sb3(case, "sbx")


def peaks() -> dict[str, float]:
    """The most memory that this process had: its own, and on a device that says so, there."""
    found = {"peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}
    if "jax" in sys.modules:
        stats = sys.modules["jax"].devices()[0].memory_stats() or {}
        if "peak_bytes_in_use" in stats:
            found["device_peak_mb"] = stats["peak_bytes_in_use"] / 2**20
    return found


def main() -> None:
    side, case = json.loads(sys.stdin.readline())
    began = time.perf_counter()
    work, steps, gradient_steps = globals()[side](case)
    work()  # the first compiles
    prepared = time.perf_counter() - began
    say = lambda **what: print("\n" + json.dumps(what), flush=True)  # noqa: E731
    say(prepared=prepared, steps=steps, gradient_steps=gradient_steps, **peaks())
    for _ in sys.stdin:
        start = time.perf_counter()
        work()
        seconds = time.perf_counter() - start
        say(seconds=seconds, **peaks())


if __name__ == "__main__":
    main()
