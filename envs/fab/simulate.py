"""Whole runs: many fabs at once, on the device, until their horizon."""

from typing import Any

import jax

from . import dynamics
from .dynamics import Moves, State
from .figures import Window
from .instance import Instance
from .rules import Rule

# Steps between two looks at whether all fabs are done.
_CHUNK = 64


def start(instance: Instance, keys: jax.Array, window: Window, batched: bool = False) -> State:
    """Fabs at tick 0, one for each key ``[B]``; one instance for all, or ``[B, ...]``."""
    axes = (0 if batched else None, 0, None)
    return jax.vmap(dynamics.init, in_axes=axes)(instance, keys, window)


def run(
    instance: Instance, rule: Rule, state: State, batched: bool = False, one_at_a_time: bool = False
) -> State:
    """Runs fabs ``[B]`` to the end of their windows."""
    axis = 0 if batched else None
    step = jax.vmap(
        lambda instance, state: dynamics.step(instance, rule, state, one_at_a_time)[0],
        in_axes=(axis, 0),
    )
    done = jax.vmap(dynamics.finished, in_axes=(axis, 0))

    def chunk(state: State) -> State:
        return jax.lax.fori_loop(0, _CHUNK, lambda _, s: step(instance, s), state)

    return jax.lax.while_loop(lambda s: ~done(instance, s).all(), chunk, state)


def trace(
    instance: Instance, rule: Rule, state: State, steps: int, one_at_a_time: bool = False
) -> tuple[State, Moves]:
    """`steps` steps of one fab, and all that moved in them ``[steps, N]``."""

    def body(state: State, _: Any) -> tuple[State, Moves]:
        return dynamics.step(instance, rule, state, one_at_a_time)

    return jax.lax.scan(body, state, length=steps)
