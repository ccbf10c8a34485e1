"""Whole runs: many fabs at once, on the devices, until their horizon."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
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
# As many where each has an instance of its own, and more of them would take little less time each.
_LANES = 16


def start(instance: Instance, keys: jax.Array, window: Window, batched: bool = False) -> State:
    """Fabs at tick 0, one for each key ``[B]``; one instance for all, or ``[B, ...]``."""
    axes = (0 if batched else None, 0, None)
    return jax.vmap(dynamics.init, in_axes=axes)(instance, keys, window)


def run(
    instance: Instance, rule: Rule, state: State, batched: bool = False, one_at_a_time: bool = False
) -> State:
    """Runs fabs ``[B]`` to the end of their windows, on all devices.

    Args:
      instance: one for all, or ``[B, ...]`` where it is `batched`.
      rule: what they dispatch by.
      state: where they are.
      batched: whether each fab has an instance of its own.
      one_at_a_time: see `dynamics`.
    """
    if batched:
        return run_own(instance, lambda own: (own, rule), state, one_at_a_time)
    each = jax.vmap(lambda state: until_the_end(instance, rule, state, one_at_a_time))
    return deal(each, len(state.count), (True,))(state)


def run_own(
    own: Any,
    of: Callable[[Any], tuple[Instance, Rule]],
    state: State,
    one_at_a_time: bool = False,
) -> State:
    """Runs fabs ``[B]`` with instances and rules of their own, on all devices.

    On a CPU a few of them run side by side, and where one is at its end the next one takes its
    place: they differ in how many steps they take, and none waits for the longest.

    Args:
      own: ``[B, ...]`` whatever makes a fab.
      of: ``its own -> (instance, rule)``.
      state: where they are.
      one_at_a_time: see `dynamics`.
    """

    def each(own: Any, state: State) -> State:
        if jax.devices()[0].platform == "cpu" and len(state.count) > _LANES:
            return _in_turn(own, of, state, one_at_a_time)
        one = lambda own, state: until_the_end(*of(own), state, one_at_a_time)  # noqa: E731
        return jax.vmap(one)(own, state)

    return _shard(each, len(state.count), (True, True))(own, state)


class _InTurn(NamedTuple):
    """Fabs ``[B]`` that take turns in L lanes.

    Attributes:
      fab: ``[L]`` which one is in each lane; B where none is any more.
      begun: how many have been put into lanes.
      own, here: ``[L, ...]`` of the fabs in the lanes.
      everyone: ``[B, ...]`` of all, where they begin or have ended.
    """

    fab: jax.Array
    begun: jax.Array
    own: Any
    here: State
    everyone: State


def _in_turn(
    own: Any, of: Callable[[Any], tuple[Instance, Rule]], state: State, one_at_a_time: bool
) -> State:
    """As `run_own`, of more fabs than lanes, on one device."""
    fabs = len(state.count)

    def onward(own: Any, state: State) -> tuple[State, jax.Array]:
        instance, rule = of(own)
        state = _chunk(instance, rule, state, one_at_a_time)
        return state, dynamics.finished(instance, state)

    def body(lanes: _InTurn) -> _InTurn:
        here, ended = jax.vmap(onward)(lanes.own, lanes.here)
        lanes, ended = lanes._replace(here=here), ended & (lanes.fab < fabs)
        return jax.lax.cond(ended.any(), change, lambda lanes, _: lanes, lanes, ended)

    def change(lanes: _InTurn, ended: jax.Array) -> _InTurn:
        # One that has ended is kept in the place where its start was.
        place = jnp.where(ended, lanes.fab, fabs)
        put = lambda all_of_them, x: all_of_them.at[place].set(x, mode="drop")  # noqa: E731
        everyone = jax.tree.map(put, lanes.everyone, lanes.here)
        number = lanes.begun + jnp.cumsum(ended) - 1
        fab = jnp.where(ended, jnp.minimum(number, fabs), lanes.fab)
        takes = ended & (fab < fabs)

        def take(new: Any, old: jax.Array) -> jax.Array:
            row = takes.reshape(-1, *[1] * (old.ndim - 1))
            return jnp.where(row, new[jnp.minimum(fab, fabs - 1)], old)

        return _InTurn(
            fab=fab,
            begun=lanes.begun + ended.sum(),
            own=jax.tree.map(take, own, lanes.own),
            here=jax.tree.map(take, everyone, lanes.here),
            everyone=everyone,
        )

    first = lambda tree: jax.tree.map(lambda x: x[:_LANES], tree)  # noqa: E731
    begin = _InTurn(jnp.arange(_LANES), jnp.int32(_LANES), first(own), first(state), state)
    return jax.lax.while_loop(lambda lanes: (lanes.fab < fabs).any(), body, begin).everyone


def until_the_end(
    instance: Instance, rule: Rule, state: State, one_at_a_time: bool = False
) -> State:
    """One fab at the end of its window."""

    # Of many, under `vmap`, those that are done wait for the others, and to hold them back at every
    # step costs far more than the steps that they take in vain, which do nothing.
    return jax.lax.while_loop(
        lambda state: ~dynamics.finished(instance, state),
        lambda state: _chunk(instance, rule, state, one_at_a_time),
        state,
    )


def _chunk(instance: Instance, rule: Rule, state: State, one_at_a_time: bool) -> State:
    step = lambda _, s: dynamics.step(instance, rule, s, one_at_a_time)[0]  # noqa: E731
    return jax.lax.fori_loop(0, _CHUNK, step, state)


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
    each = fabs // _devices(fabs)
    if jax.devices()[0].platform == "cpu" and each > _BLOCK:
        block = max(n for n in range(1, _BLOCK + 1) if each % n == 0)
        function = _in_blocks(function, each // block, batched)
    return _shard(function, fabs, batched)


def _shard(
    function: Callable[..., Any], fabs: int, batched: tuple[bool, ...]
) -> Callable[..., Any]:
    """The function with its fabs in equal parts on the devices."""
    count = _devices(fabs)
    if count == 1:
        return function
    mesh = Mesh(np.array(jax.devices()[:count]), ("fabs",))
    specs = tuple(PartitionSpec("fabs") if each else PartitionSpec() for each in batched)
    return jax.shard_map(
        function, mesh=mesh, in_specs=specs, out_specs=PartitionSpec("fabs"), check_vma=False
    )


def _devices(fabs: int) -> int:
    """How many devices there can be for as many fabs."""
    return max(n for n in range(1, jax.device_count() + 1) if fabs % n == 0)


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
