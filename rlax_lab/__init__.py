"""Reinforcement learning in JAX: pure-functional learners that run whole on the device."""

from rlax_lab import distributions, losses, networks, normalize, ppo, returns, train
from rlax_lab.errors import InputError, NonFiniteError
from rlax_lab.evaluate import Evaluation, evaluate
from rlax_lab.types import Environment, Learner

__all__ = [
    "Environment",
    "Evaluation",
    "InputError",
    "Learner",
    "NonFiniteError",
    "distributions",
    "evaluate",
    "losses",
    "networks",
    "normalize",
    "ppo",
    "returns",
    "train",
]
