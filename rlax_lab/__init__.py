"""Reinforcement learning in JAX: pure-functional learners that run whole on the device."""

from rlax_lab import (
    a2c,
    a3c,
    actor_critic,
    distributions,
    dqn,
    losses,
    networks,
    normalize,
    optimizers,
    ppo,
    reinforce,
    replay,
    returns,
    train,
)
from rlax_lab.errors import InputError, NonFiniteError
from rlax_lab.evaluate import Evaluation, evaluate
from rlax_lab.types import Environment, Learner

__all__ = [
    "Environment",
    "Evaluation",
    "InputError",
    "Learner",
    "NonFiniteError",
    "a2c",
    "a3c",
    "actor_critic",
    "distributions",
    "dqn",
    "evaluate",
    "losses",
    "networks",
    "normalize",
    "optimizers",
    "ppo",
    "reinforce",
    "replay",
    "returns",
    "train",
]
