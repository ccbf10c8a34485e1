"""Sums and counts of an update, and the means that leave the device."""

import jax
import jax.numpy as jnp
import numpy as np

from rlax_lab import metrics
from rlax_lab.vector import TimeStep


def timestep(terminated, truncated, episode_return, episode_length):
    zeros = jnp.zeros(np.shape(terminated))
    return TimeStep(
        reward=zeros,
        terminated=jnp.array(terminated),
        truncated=jnp.array(truncated),
        discount=zeros + 1,
        next_observation=zeros,
        episode_return=jnp.array(episode_return),
        episode_length=jnp.array(episode_length, jnp.int32),
    )


STEP = timestep(
    [[True, False, False], [False, False, True]],
    [[False, True, False], [False, False, False]],
    [[1.0, 10.0, 7.0], [np.nan, 3.0, -4.0]],
    [[1, 20, 7], [2, 9, 5]],
)


def test_episodes_counts_those_that_ended():
    """Either end counts; running episodes do not, whatever their return so far (here a NaN)."""
    sums = jax.jit(metrics.episodes)(STEP)
    assert sums == {"episodes": 3, "episode_return": 7, "episode_length": 26}
    assert {x.dtype.name for x in sums.values()} == {"float32"}


def test_no_episode_ended():
    """Without an end there are no sums, and means of episodes are None instead of 0 or NaN."""
    no = [[False] * 3] * 2
    sums = metrics.episodes(STEP._replace(terminated=jnp.array(no), truncated=jnp.array(no)))
    assert sums == {"episodes": 0, "episode_return": 0, "episode_length": 0}
    assert metrics.means(sums | {"gradient_steps": 4, "loss": 2.0}) == {
        "episodes": 0.0,
        "episode_return": None,
        "episode_length": None,
        "loss": 0.5,
    }


def test_sums_of_updates_weigh_every_episode_alike():
    """One episode of return 0 and nine of return 10, in two updates, have mean 9, not 5."""
    first = {"episodes": 1, "episode_return": 0.0, "gradient_steps": 2, "loss": 4.0}
    second = {"episodes": 9, "episode_return": 90.0, "gradient_steps": 6, "loss": 4.0}
    total = jax.tree.map(jnp.add, first, second)
    assert metrics.means(total) == {"episodes": 10.0, "episode_return": 9.0, "loss": 1.0}


def test_means_are_plain_numbers():
    """What leaves the device is ready for JSON: Python floats, and no gradient_steps."""
    sums = metrics.episodes(STEP) | {"gradient_steps": jnp.float32(2), "loss": jnp.float32(3)}
    means = metrics.means(sums)
    assert means == {
        "episodes": 3.0,
        "episode_return": 7 / 3,
        "episode_length": 26 / 3,
        "loss": 1.5,
    }
    assert {type(x) for x in means.values()} == {float}
