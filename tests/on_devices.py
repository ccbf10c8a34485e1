"""Trains a small run on several numbers of devices, and leaves what comes out.

``python -m tests.on_devices FOLDER ALGO SEEDS PARTS DEVICES...``; JAX has as many devices as it
started with, so `tests.test_shards` runs this in a process of its own.
"""

import sys
from pathlib import Path

import gymnax
import jax
import jax.numpy as jnp
import numpy as np

from rlax_lab import a2c, actor_critic, checkpoint, dqn, ppo, reinforce, shards, train

MODULES = {"ppo": ppo, "a2c": a2c, "reinforce": reinforce, "actor_critic": actor_critic, "dqn": dqn}
COMMON = {"num_envs": 16, "num_steps": 4, "hidden_sizes": (8,), "normalize_observations": True}
POLICY = {"scale_rewards": True}
OPTIONS = {
    "ppo": POLICY | {"num_minibatches": 2, "num_epochs": 2},
    "a2c": POLICY,
    "reinforce": POLICY,
    "actor_critic": POLICY,
    "dqn": {
        "n_step": 2,
        "prioritized": True,
        "num_gradient_steps": 2,
        "batch_size": 16,
        "buffer_size": 256,
        "learning_starts": 128,
    },
}
UPDATES = 2


def spread(name, parts):
    env, env_params = gymnax.make("CartPole-v1")
    config = MODULES[name].Config(**COMMON | OPTIONS[name])
    return shards.spread(lambda c: MODULES[name].make(env, c, env_params), config, parts)


def leave(path, tree):
    named = jax.tree_util.tree_leaves_with_path(checkpoint.to_numpy(tree))
    np.savez(path, **{jax.tree_util.keystr(where): x for where, x in named})


def main(folder, name, seeds, parts, *counts):
    """Leaves a run after UPDATES updates and after one more, on each number of devices.

    On the first of them it goes on from a checkpoint that was saved on the last as well.
    """
    learner = spread(name, parts)
    keys = train.seed_keys(0, seeds)
    init = jax.jit(jax.vmap(learner.init))
    chunks = {}
    for devices in counts:
        mesh = shards.deal(seeds, parts, devices)
        assert (1 if mesh is None else mesh.size) == devices
        chunks[devices] = train.advance(learner, mesh)
        results = chunks[devices](shards.place(init(keys), mesh, learner), jnp.int32(UPDATES))
        assert {len(x.devices()) for x in jax.tree.leaves(results)} == {devices}
        leave(folder / f"{devices}.npz", results)
        checkpoint.save(folder / "checkpoints", UPDATES, results[0], {})
        leave(folder / f"{devices}_later.npz", chunks[devices](results[0], jnp.int32(1)))
    _, states, _ = checkpoint.restore(folder / "checkpoints", jax.eval_shape(init, keys))
    leave(folder / "moved_later.npz", chunks[counts[0]](states, jnp.int32(1)))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], *map(int, sys.argv[3:]))
