"""A fresh process that trains PPO on CartPole-v1 until it is solved, and says after which time.

Run by `cold.py`: ``cold_worker.py SIDE SEED STEPS BEGAN [CHECKOUT]``, where BEGAN is the clock when
the process was asked for. Solved is a mean return of 475 or more over the training episodes that
ended within a window of 8192 steps, on both sides.
"""

import json
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from unittest import mock

WINDOW, SOLVED = 8192, 475.0

# When it began and ended to train, compiled, and after which part of that it was solved, if ever.
Course = tuple[float, float, float | None]


def ours(seed: int, steps: int, _: str) -> Course:
    from rlax_lab import packages, ppo, train

    env, env_params = packages.ours("registry").make("CartPole-v1")
    learner = ppo.make(env, ppo.Config(), env_params)
    keys = train.seed_keys(seed, 1)
    with ThreadPoolExecutor() as pool:
        init, chunk, _ = train.compiling(pool, learner, keys)
        assert init is not None
        states = init.result()(keys)
    began = time.time()
    windows = steps // WINDOW
    reports = train.train(learner, states, reports=learner.num_updates, chunk=chunk.result())
    for _, (_, report) in zip(range(windows), reports, strict=False):
        episodes, total = (float(report.sums[x][0]) for x in ("episodes", "episode_return"))
        if episodes and total / episodes >= SOLVED:
            return began, time.time(), 1.0
    return began, time.time(), None


def purejaxrl(seed: int, steps: int, checkout: str) -> Course:
    import jax
    import numpy as np

    sys.path.insert(0, os.path.join(checkout, "purejaxrl"))
    # What it imports for other environments and for logging.
    for name in ("wandb", "navix", "brax", "brax.envs.wrappers", "brax.envs.wrappers.training"):
        sys.modules[name] = mock.MagicMock()
    jax.tree_map = jax.tree.map  # which newer versions of jax dropped
    import ppo

    # Its own settings.
    config: dict[str, Any] = {
        "LR": 2.5e-4,
        "NUM_ENVS": 4,
        "NUM_STEPS": 128,
        "TOTAL_TIMESTEPS": steps,
        "UPDATE_EPOCHS": 4,
        "NUM_MINIBATCHES": 4,
        "GAMMA": 0.99,
        "GAE_LAMBDA": 0.95,
        "CLIP_EPS": 0.2,
        "ENT_COEF": 0.01,
        "VF_COEF": 0.5,
        "MAX_GRAD_NORM": 0.5,
        "ACTIVATION": "tanh",
        "ENV_NAME": "CartPole-v1",
        "ANNEAL_LR": True,
        "DEBUG": False,
    }
    key = jax.random.PRNGKey(seed)
    train = jax.jit(ppo.make_train(config)).lower(key).compile()
    began = time.time()
    info = jax.block_until_ready(train(key))["metrics"]
    ended = time.time()
    # It only stops at its end: solved is at that part of the time at which a window is good.
    returns = np.where(info["returned_episode"], info["returned_episode_returns"], 0.0)
    rows = WINDOW // (config["NUM_STEPS"] * config["NUM_ENVS"])
    windows = len(returns) // rows
    total, count = (
        np.asarray(x)[: windows * rows].reshape(windows, -1).sum(1)
        for x in (returns, info["returned_episode"])
    )
    good = np.flatnonzero(total >= SOLVED * np.maximum(count, 1))
    return began, ended, float((good[0] + 1) / windows) if len(good) else None


def main() -> None:
    side, seed, steps, asked, checkout = sys.argv[1:]
    began, ended, part = globals()[side](int(seed), int(steps), checkout)
    seconds = None if part is None else began - float(asked) + part * (ended - began)
    print("\n" + json.dumps({"seconds": seconds, "prepared": began - float(asked)}))


if __name__ == "__main__":
    main()
