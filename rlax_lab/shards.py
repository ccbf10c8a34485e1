"""One run in several parts: each has its share of the environments, and they learn as one.

A learner's functions work on a part as they do on the whole. What they take the `mean` of they
share with the other parts, and what they draw with a key of their `own` they do not; alone, both
change nothing. So a run in S parts is the same on one device, which takes all of them, as on S
devices, which take one each.
"""

import dataclasses
import json
import math
import zlib
from collections.abc import Callable
from typing import Any

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from rlax_lab import checkpoint
from rlax_lab.errors import InputError
from rlax_lab.types import Learner, PyTree

# Seeds and parts are dealt to the devices; each maps over those that it has.
SEEDS, DEVICES, PARTS = "seeds", "devices", "parts"
# What the parts of a run have between them; all else in a configuration holds for each.
_SHARED = ("num_envs", "total_steps", "batch_size", "buffer_size", "learning_starts")
_ROUNDED_UP = ("total_steps", "learning_starts")  # to whole rows of environments, in any case


def mean(x: PyTree) -> PyTree:
    """The mean over the parts of a run; `x` itself where it is in one part."""
    names = _parted()
    return _in_one_piece(lambda x: jax.lax.pmean(x, names), x) if names else x


def mean_of(x: jax.Array, where: jax.Array | None = None) -> jax.Array:
    """The mean of all entries of all parts, or of those `where` it is true; 0 where that is none.

    `mean` of each part's mean would weigh few entries in one part like many in another.
    """
    if where is None:
        return mean(jnp.mean(x))
    total, count = mean((jnp.sum(jnp.where(where, x, 0.0)), jnp.sum(where)))
    return total / jnp.where(count > 0, count, 1)


def weights(where: jax.Array | None) -> jax.Array | None:
    """With which a mean over all entries of all parts is one over those `where` it is true."""
    if where is None:
        return None
    part = mean(jnp.mean(where.astype(jnp.float32)))
    return where / jnp.where(part > 0, part, 1.0)


def own(key: jax.Array) -> jax.Array:
    """A key of this part's own; `key` itself where the run is in one part."""
    names = _parted()
    return jax.random.fold_in(key, jax.lax.axis_index(names)) if names else key


def numbers(count: int) -> jax.Array:
    """``[count]`` int32: which of all parts' rows, as many in each, this part's are, from 0 on."""
    names = _parted()
    before = count * jax.lax.axis_index(names) if names else 0
    return before + jnp.arange(count)


def on_several_devices() -> bool:
    """Whether the program around this is one of several, each on a device of its own."""
    return DEVICES in _parted()


def _in_one_piece(collective: Callable[[jax.Array], jax.Array], x: PyTree) -> PyTree:
    """Of all arrays of `x` together, for which devices wait once, not once for every array."""
    # As floats, or integers would come back as such.
    floats = jax.tree.map(lambda x: jnp.asarray(x, jnp.result_type(x, float)), x)
    flat, restore = jax.flatten_util.ravel_pytree(floats)
    return restore(collective(flat))


def _parted() -> tuple[str, ...]:
    """Over which axes the program around this is mapped."""

    def mapped(name: str) -> bool:
        try:
            jax.lax.axis_size(name)
        except NameError:
            return False
        return True

    return tuple(filter(mapped, (DEVICES, PARTS)))


def axes(state: Any, **own: Any) -> PyTree:
    """A `Learner`'s axes: of the NamedTuple `state`, all is common but the fields in `own`."""
    return state(**{name: own.get(name) for name in state._fields})


def spread(make: Callable[[Any], Learner], config: Any, parts: int) -> Learner:
    """A learner whose environments are in `parts` equal parts.

    It is the algorithm of the whole: gradients, running statistics and what advantages are
    standardised with are means over the parts. Only draws differ: a minibatch has as many rows of
    each part, and a batch from replay as many transitions.

    Args:
      make: from a configuration to a learner.
      config: of the whole.
      parts: how many; 1 is ``make(config)``.

    Raises:
      InputError: where the parts would not be equal, or the algorithm has none.
    """
    if parts == 1:
        return make(config)
    share = {
        name: _share(name, getattr(config, name), parts)
        for name in (field.name for field in dataclasses.fields(config))
        if name in _SHARED
    }
    part = make(dataclasses.replace(config, **share))
    which = part.axes
    if which is None:
        raise InputError(f"parts is {parts}, but this algorithm runs in one part only.")

    def init(key: jax.Array) -> PyTree:
        each = jax.vmap(part.init, in_axes=None, out_axes=which, axis_name=PARTS, axis_size=parts)
        return each(key)

    def update(state: PyTree) -> tuple[PyTree, dict[str, jax.Array]]:
        # On several devices these are one device's parts.
        each = jax.vmap(part.update, in_axes=(which,), out_axes=(which, 0), axis_name=PARTS)
        state, metrics = each(state)
        sums = jax.tree.map(lambda x: jnp.sum(x, axis=0), metrics)
        if on_several_devices():
            sums = _in_one_piece(lambda x: jax.lax.psum(x, DEVICES), sums)
        return state, sums

    return part._replace(
        init=init,
        update=update,
        steps_per_update=parts * part.steps_per_update,
        total_steps=parts * part.total_steps,
        initial_steps=parts * part.initial_steps,
        parts=parts,
    )


def _share(name: str, whole: int, parts: int) -> int:
    if whole % parts and name not in _ROUNDED_UP:
        divisors = [d for d in range(1, whole + 1) if whole % d == 0]
        closest = min(divisors, key=lambda d: abs(d - parts))
        raise InputError(
            f"parts is {parts}, which does not divide {name} = {whole}; the nearest number that "
            f"does is {closest}."
        )
    return -(-whole // parts)


def deal(seeds: int, parts: int, devices: int | None = None) -> Mesh | None:
    """The devices that seeds and parts are dealt to, equally many to each; None for just one.

    Args:
      seeds, parts: of a run.
      devices: how many; by default as many as there are and can have equally much.

    Raises:
      InputError: where there are not so many, or they cannot have equally much.
    """
    processes, available = jax.process_count(), len(jax.devices())
    # As many of each process.
    own = [[d for d in jax.devices() if d.process_index == p] for p in range(processes)]
    if len(set(map(len, own))) > 1:
        raise InputError(
            f"the processes have {', '.join(str(len(each)) for each in own)} devices, but must "
            "have equally many."
        )
    fits = [
        number
        for number in range(processes, available + 1, processes)
        if parts % (number // math.gcd(number, seeds)) == 0
    ]
    if not fits:
        raise InputError(
            f"{processes} processes cannot share {seeds} seeds in {parts} parts equally; give "
            f"--parts {processes}."
        )
    number = fits[-1] if devices is None else devices
    if number > available:
        raise InputError(f"devices is {number}, but must be at most {available}.")
    if number not in fits:
        closest = min(fits, key=lambda d: abs(d - number))
        raise InputError(
            f"devices is {number}, but {seeds} seeds in {parts} parts cannot be dealt equally to "
            f"so many; the nearest number is {closest}."
        )
    if number == 1:
        return None
    chosen = [device for each in own for device in each[: number // processes]]
    side = math.gcd(number, seeds)
    grid = np.array(chosen).reshape(side, number // side)
    return Mesh(grid, (SEEDS, DEVICES), axis_types=(AxisType.Auto, AxisType.Auto))


def together(check: Callable[[], None], plan: Any) -> None:
    """A check that all processes of a run make, and that none passes alone.

    One that stopped by itself would leave the others waiting, and so would one with another plan.

    Args:
      check: raises InputError.
      plan: a JSON value, to be the same in all processes.

    Raises:
      InputError: where the check raised it in any process, or the plans differ.
    """
    refusal: InputError | None = None
    try:
        check()
    except InputError as error:
        refusal = error
    if jax.process_count() > 1:
        said = np.array([refusal is not None, zlib.crc32(json.dumps(plan).encode())], np.uint32)
        refusals, plans = np.asarray(multihost_utils.process_allgather(said)).T
        if refusal is None and np.any(refusals):
            refusal = InputError(f"process {np.argmax(refusals)} cannot start, and says why.")
        elif refusal is None and np.any(plans != plans[0]):
            other = np.argmax(plans != plans[0])
            refusal = InputError(
                f"process {other} was given something else than process 0; all need the same."
            )
    if refusal is not None:
        raise refusal


def agree(x: PyTree) -> PyTree:
    """What the first process says; `x` itself where there is no other."""
    return x if jax.process_count() == 1 else multihost_utils.broadcast_one_to_all(x)


def specs(learner: Learner) -> PyTree:
    """How the states ``[seeds, ...]`` of a learner lie on the devices, a prefix of them."""
    return jax.tree.map(
        lambda axis: P(SEEDS) if axis is None else P(SEEDS, DEVICES),
        learner.axes if learner.parts > 1 else None,
        is_leaf=lambda axis: axis is None,
    )


def over_seeds(f: Callable[..., PyTree], mesh: Mesh | None) -> Callable[..., PyTree]:
    """`f` of arguments ``[seeds, ...]`` but a last one that is common, on the devices of a mesh."""
    if mesh is None:
        return f

    def spread(*args: PyTree) -> PyTree:
        by_seed = (P(SEEDS),) * (len(args) - 1)
        return jax.shard_map(
            f, mesh=mesh, in_specs=(*by_seed, P()), out_specs=P(SEEDS), check_vma=False
        )(*args)

    return spread


def placed(shapes: PyTree, mesh: Mesh | None, learner: Learner | None = None) -> PyTree:
    """The abstract shapes of what `place` gives."""
    if mesh is None:
        return shapes

    def at(sharding: NamedSharding, below: PyTree) -> PyTree:
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), below
        )

    return jax.tree.map(at, _shardings(mesh, learner), shapes)


def place(x: PyTree, mesh: Mesh | None, learner: Learner | None = None) -> PyTree:
    """Puts a learner's states, or what else seeds have ``[seeds, ...]``, on a mesh's devices."""
    if mesh is None:
        return x
    wanted = _shardings(mesh, learner)
    if jax.process_count() == 1:
        return jax.device_put(x, wanted)
    # Every process has all of it on its host, and puts its own devices' share there.
    shapes = jax.eval_shape(lambda: x)
    put = jax.jit(lambda arrays: checkpoint.from_numpy(arrays, shapes), out_shardings=wanted)
    return put(checkpoint.to_numpy(x))


def _shardings(mesh: Mesh, learner: Learner | None) -> PyTree:
    spec = P(SEEDS) if learner is None else specs(learner)
    return jax.tree.map(lambda spec: NamedSharding(mesh, spec), spec)
