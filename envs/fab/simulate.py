"""Whole runs: many fabs at once, on the devices, until their horizon."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from . import dynamics
from .dynamics import Moves, State
from .figures import Window
from .instance import Instance
from .rules import Rule

# Steps between two looks at whether all fabs are done.
_CHUNK = 64
# Fabs that a core takes at a time: the states of more do not fit into its cache.
_BLOCK = 128


def start(instance: Instance, keys: jax.Array, window: Window, batched: bool = False) -> State:
    """Fabs at tick 0, one for each key ``[B]``; one instance for all, or ``[B, ...]``."""
    axes = (0 if batched else None, 0, None)
    return jax.vmap(dynamics.init, in_axes=axes)(instance, keys, window)


def run(
    instance: Instance, rule: Rule, state: State, batched: bool = False, one_at_a_time: bool = False
) -> State:
    """Runs fabs ``[B]`` to the end of their windows, on all devices."""

    def one(instance: Instance, state: State) -> State:
        return until_the_end(instance, rule, state, one_at_a_time)

    each = jax.vmap(one, in_axes=(0 if batched else None, 0))
    return deal(each, len(state.count), (batched, True))(instance, state)


def until_the_end(
    instance: Instance, rule: Rule, state: State, one_at_a_time: bool = False
) -> State:
    """One fab at the end of its window."""

    # Of many, under `vmap`, those that are done wait for the others, and to hold them back at every
    # step costs far more than the steps that they take in vain, which do nothing.
    def chunk(state: State) -> State:
        step = lambda _, s: dynamics.step(instance, rule, s, one_at_a_time)[0]  # noqa: E731
        return jax.lax.fori_loop(0, _CHUNK, step, state)

    return jax.lax.while_loop(lambda s: ~dynamics.finished(instance, s), chunk, state)


def deal(function: Callable[..., Any], fabs: int, batched: tuple[bool, ...]) -> Callable[..., Any]:
    """The function with its fabs dealt out to the devices, each of which goes on by itself.

    XLA runs such a program on one core of a CPU. There a device is what
    ``jax.config.update("jax_num_cpu_devices", n)`` makes of a core, before JAX is first used; and
    it takes the fabs in blocks that stay in its cache, one after another.

    Args:
      function: of arrays, all of its results ``[B, ...]``.
      fabs: B, of whose divisors the largest tells how many devices there can be.
      batched: which arguments are ``[B, ...]``; the others are for all fabs.
    """
    devices = jax.devices()
    count = max(n for n in range(1, len(devices) + 1) if fabs % n == 0)
    each = fabs // count
    if devices[0].platform == "cpu" and each > _BLOCK:
        block = max(n for n in range(1, _BLOCK + 1) if each % n == 0)
        function = _in_blocks(function, each // block, batched)
    if count == 1:
        return function
    mesh = Mesh(np.array(devices[:count]), ("fabs",))
    specs = tuple(PartitionSpec("fabs") if each else PartitionSpec() for each in batched)
    return jax.shard_map(
        function, mesh=mesh, in_specs=specs, out_specs=PartitionSpec("fabs"), check_vma=False
    )


def _in_blocks(
    function: Callable[..., Any], blocks: int, batched: tuple[bool, ...]
) -> Callable[..., Any]:
    """The function of as many equal blocks of fabs, one after another."""

    def one_by_one(*arguments: Any) -> Any:
        split = lambda x: x.reshape(blocks, -1, *x.shape[1:])  # noqa: E731
        own = [jax.tree.map(split, x) for x, b in zip(arguments, batched, strict=True) if b]

        def one(own: list[Any]) -> Any:
            rest = iter(own)
            whole = zip(arguments, batched, strict=True)
            return function(*(next(rest) if b else x for x, b in whole))

        joined = lambda x: x.reshape(-1, *x.shape[2:])  # noqa: E731
        return jax.tree.map(joined, jax.lax.map(one, own))

    return one_by_one


def trace(
    instance: Instance, rule: Rule, state: State, steps: int, one_at_a_time: bool = False
) -> tuple[State, Moves]:
    """`steps` steps of one fab, and all that moved in them ``[steps, N]``."""

    def body(state: State, _: Any) -> tuple[State, Moves]:
        return dynamics.step(instance, rule, state, one_at_a_time)

    return jax.lax.scan(body, state, length=steps)
