"""A network on the observations of an environment: any leading axes, masks, running statistics."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from rlax_lab import networks, vector
from rlax_lab.config import configuration, setting
from rlax_lab.errors import InputError
from rlax_lab.normalize import Moments
from rlax_lab.types import Environment, PyTree

MASK = "action_mask"


@configuration
class ModelConfig:
    """The fields that every learner has."""

    torso: str = setting(
        "mlp",
        "network before the heads; nature_cnn takes images of 36x36 and more, minatar_cnn small "
        "ones (Young and Tian 2019)",
        choices=("mlp", "nature_cnn", "minatar_cnn"),
    )
    hidden_sizes: tuple[int, ...] = setting(
        (64, 64), "layers of the mlp torso (Schulman et al. 2017, section 6.1)"
    )
    activation: str = setting(
        "tanh",
        "nonlinearity of the mlp torso (Schulman et al. 2017, section 6.1)",
        choices=tuple(networks.ACTIVATIONS),
    )
    precision: str = setting(
        "float32",
        "what the torso computes in; weights, heads, losses and the optimiser keep float32",
        choices=("float32", "bfloat16"),
    )
    normalize_observations: bool = setting(
        False, "shift and scale observations by their running mean and deviation, clipped to +-10"
    )


class Params(NamedTuple):
    """All that acting needs: trained weights, and the statistics they were trained with."""

    network: PyTree
    moments: Moments | None


class Model(NamedTuple):
    """The functions of one network; observations have any leading axes ``[...]``.

    Attributes:
      init: ``init(key) -> Params``.
      apply: ``apply(params, observation) ->`` what the network gives, ``[..., *]`` in every leaf.
      observe: ``observe(params, observation) -> Params``: statistics that have seen it too.
      allow: ``allow(observation, scores [..., n]) -> [..., n]``, the least float where the
        observation's mask rules an action out.
    """

    init: Callable[[jax.Array], Params]
    apply: Callable[[Params, PyTree], PyTree]
    observe: Callable[[Params, PyTree], Params]
    allow: Callable[[PyTree, jax.Array], jax.Array]


def make(
    env: Environment,
    env_params: Any,
    normalize_observations: bool,
    module: nn.Module,
    wanted: PyTree,
    meaning: str,
    num_actions: int,
) -> Model:
    """The model of an environment's observations.

    An observation that is a dict with the key ``"action_mask"`` (bool, one entry per action, or
    per choice of every part of a multi-discrete action) rules out the actions where it is false;
    the mask is not shown to the network.

    Args:
      env, env_params: the environment.
      normalize_observations: whether `Params` keep statistics and `apply` uses them.
      module: called with a batch of observations ``[B, ...]``.
      wanted: the shapes that it must give for a batch of 2.
      meaning: what those outputs are, for the error.
      num_actions: the entries that a mask must have; 0 where masks mean nothing.

    Raises:
      InputError: where `module` does not fit the observations or gives other shapes, or the mask
        does not fit the actions.
    """
    example = observation_shapes(env, env_params)

    def init(key: jax.Array) -> Params:
        zeros = jax.tree.map(lambda x: jnp.zeros((1, *x.shape), x.dtype), shown(example))
        moments = Moments.like(_floats(example)) if normalize_observations else None
        return Params(module.init(key, zeros), moments)

    def apply(params: Params, observation: PyTree) -> PyTree:
        rank = vector.event_rank(example, observation)
        lead = jax.tree.leaves(observation)[0].shape[:rank]
        seen = shown(observation)
        if params.moments is not None:
            seen = _with_floats(seen, params.moments.normalize(_floats(observation)))
        batch = jax.tree.map(lambda x: x.reshape(-1, *x.shape[rank:]), seen)
        applied: Any = module.apply(params.network, batch)
        return jax.tree.map(lambda x: x.reshape(*lead, *x.shape[1:]), applied)

    def observe(params: Params, observation: PyTree) -> Params:
        if params.moments is None:
            return params
        return params._replace(moments=params.moments.include(_floats(observation)))

    def allow(observation: PyTree, scores: jax.Array) -> jax.Array:
        mask = _mask(observation)
        if mask is None:
            return scores
        # The least float, not -inf: a probability of 0 times a log of -inf would be NaN.
        least = jnp.finfo(scores.dtype).min
        return jnp.where(jnp.broadcast_to(mask, scores.shape), scores, least)

    mask = _mask(example)
    if mask is not None and mask.shape != (num_actions,):
        raise InputError(
            f"the action mask has shape {mask.shape}, but the action space needs one entry for "
            f"each of its {num_actions} choices."
        )
    _check_network(module, shown(example), wanted, meaning)
    return Model(init, apply, observe, allow)


def observation_shapes(env: Environment, env_params: Any) -> PyTree:
    """The shapes and types of one observation, traced."""
    key = jax.eval_shape(lambda: jax.random.key(0))
    return jax.eval_shape(env.reset_env, key, env_params)[0]


def torso(env: Environment, env_params: Any, config: ModelConfig) -> Callable[[], nn.Module]:
    """What makes the layers before the heads, ``[B, ...] -> [B, F]``.

    Raises:
      InputError: on a convolutional torso whose images the environment does not have.
    """
    dtype = jnp.dtype(config.precision)
    if config.torso == "mlp":
        return partial(networks.MLP, config.hidden_sizes, config.activation, dtype)
    cls, least = {
        "nature_cnn": (networks.NatureCNN, 36),
        "minatar_cnn": (networks.MinAtarCNN, 3),
    }[config.torso]
    shapes = [x.shape for x in jax.tree.leaves(shown(observation_shapes(env, env_params)))]
    if len(shapes) != 1 or len(shapes[0]) != 3 or min(shapes[0][:2]) < least:
        raise InputError(
            f"torso is {config.torso!r}, but observations have shapes {shapes}; it takes one image "
            f"[height, width, channels] of at least {least}x{least}: use 'mlp'."
        )
    return partial(cls, dtype)


def shown(observation: PyTree) -> PyTree:
    """What the network sees: everything but the mask."""
    if _mask(observation) is None:
        return observation
    return {name: x for name, x in observation.items() if name != MASK}


def _check_network(module: nn.Module, example: PyTree, wanted: PyTree, meaning: str) -> None:
    """Raises InputError unless `module` maps two observations to arrays of the `wanted` shapes."""
    batch = jax.tree.map(lambda x: jax.ShapeDtypeStruct((2, *x.shape), x.dtype), example)
    try:
        key = jax.eval_shape(lambda: jax.random.key(0))
        outputs = jax.eval_shape(lambda k, x: module.init_with_output(k, x)[0], key, batch)
        shapes = jax.tree.map(lambda x: x.shape, outputs)
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"the network {type(module).__name__} cannot be called with a batch of observations: "
            f"{type(error).__name__}: {reason}"
        ) from error
    if shapes != wanted:
        raise InputError(
            f"the network {type(module).__name__} gives shapes {shapes} for a batch of 2, but "
            f"must give {wanted}: {meaning}."
        )


def _mask(observation: PyTree) -> Any:
    return observation.get(MASK) if isinstance(observation, dict) else None


def _floats(observation: PyTree) -> list[Any]:
    """The leaves to normalise: numbers that are neither categories, flags nor pixels."""
    leaves = jax.tree.leaves(shown(observation))
    return [x for x in leaves if jnp.issubdtype(x.dtype, jnp.floating)]


def _with_floats(observation: PyTree, floats: list[Any]) -> PyTree:
    """`observation` with its floating leaves replaced, in order."""
    new = iter(floats)
    return jax.tree.map(
        lambda x: next(new) if jnp.issubdtype(x.dtype, jnp.floating) else x, observation
    )
