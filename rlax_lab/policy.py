"""From an environment and a configuration to a policy: network, action distribution, statistics."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from rlax_lab import networks, vector
from rlax_lab.config import configuration, setting
from rlax_lab.distributions import Distribution, action_head
from rlax_lab.errors import InputError
from rlax_lab.normalize import Moments
from rlax_lab.types import Environment, PyTree

MASK = "action_mask"


@configuration
class PolicyConfig:
    """The fields that every learner with a policy has."""

    torso: str = setting(
        "mlp", "network before the heads; nature_cnn takes images", choices=("mlp", "nature_cnn")
    )
    hidden_sizes: tuple[int, ...] = setting(
        (64, 64), "layers of the mlp torso (Schulman et al. 2017, section 6.1)"
    )
    activation: str = setting(
        "tanh",
        "nonlinearity of the mlp torso (Schulman et al. 2017, section 6.1)",
        choices=tuple(networks.ACTIVATIONS),
    )
    shared_torso: bool = setting(
        False, "one torso for policy and value instead of one each (Schulman et al. 2017: apart)"
    )
    squash: str = setting(
        "clip",
        "how continuous actions are kept within bounds: clip samples, or tanh of the Gaussian",
        choices=("clip", "tanh"),
    )
    log_std_init: float = setting(
        0.0, "initial log standard deviation of continuous actions, in units of the raw action"
    )
    normalize_observations: bool = setting(
        False, "shift and scale observations by their running mean and deviation, clipped to +-10"
    )


class Params(NamedTuple):
    """All that acting needs: trained weights, and the statistics they were trained with."""

    network: PyTree
    moments: Moments | None


class Policy(NamedTuple):
    """The functions of one policy; observations have any leading axes ``[...]``.

    Attributes:
      init: ``init(key) -> Params``.
      outputs: ``outputs(params, observation) -> (policy outputs [..., size], value [...])``,
        masked actions already ruled out.
      distribution: ``distribution(outputs) -> Distribution``.
      to_action: raw actions to what the environment takes.
      act: ``act(params, observation, key=None) -> action``; without a key the mode.
      value: ``value(params, observation) -> [...]``.
      observe: ``observe(params, observation) -> Params``: statistics that have seen it too.
    """

    init: Callable[[jax.Array], Params]
    outputs: Callable[[Params, PyTree], tuple[jax.Array, jax.Array]]
    distribution: Callable[[jax.Array], Distribution]
    to_action: Callable[[jax.Array], PyTree]
    act: Callable[..., PyTree]
    value: Callable[[Params, PyTree], jax.Array]
    observe: Callable[[Params, PyTree], Params]


def make(
    env: Environment,
    env_params: Any,
    config: PolicyConfig,
    network: Callable[[int], nn.Module] | None = None,
) -> Policy:
    """The policy for an environment.

    An observation that is a dict with the key ``"action_mask"`` (bool, one entry per action, or
    per choice of every part of a multi-discrete action) rules out the actions where it is false;
    the mask is not shown to the default network.

    Args:
      env, env_params: the environment.
      config: network and normalisation.
      network: makes a user's own flax module from the number of policy outputs; it is called with
        a batch of observations and returns (outputs ``[B, size]``, values ``[B]``).

    Raises:
      InputError: on an action space or an observation that the configuration does not fit.
    """
    head = action_head(env.action_space(env_params), config.squash)
    example = jax.eval_shape(env.reset_env, jax.eval_shape(lambda: jax.random.key(0)), env_params)[
        0
    ]
    module = (
        network(head.size) if network else _default_network(example, head.size, head.free, config)
    )

    def init(key: jax.Array) -> Params:
        zeros = jax.tree.map(lambda x: jnp.zeros((1, *x.shape), x.dtype), _shown(example))
        moments = Moments.like(_floats(example)) if config.normalize_observations else None
        return Params(module.init(key, zeros), moments)

    def outputs(params: Params, observation: PyTree) -> tuple[jax.Array, jax.Array]:
        rank = vector.event_rank(example, observation)
        lead = jax.tree.leaves(observation)[0].shape[:rank]
        shown = _shown(observation)
        if params.moments is not None:
            shown = _with_floats(shown, params.moments.normalize(_floats(observation)))
        batch = jax.tree.map(lambda x: x.reshape(-1, *x.shape[rank:]), shown)
        applied: Any = module.apply(params.network, batch)
        out, values = applied[0].reshape(*lead, head.size), applied[1].reshape(lead)
        mask = _mask(observation)
        if mask is not None:
            # The least float, not -inf: a probability of 0 times a log of -inf would be NaN.
            least = jnp.finfo(out.dtype).min
            out = jnp.where(jnp.broadcast_to(mask, out.shape), out, least)
        return out, values

    def act(params: Params, observation: PyTree, key: jax.Array | None = None) -> PyTree:
        pi = head.distribution(outputs(params, observation)[0])
        return head.to_action(pi.mode() if key is None else pi.sample(key))

    def value(params: Params, observation: PyTree) -> jax.Array:
        return outputs(params, observation)[1]

    def observe(params: Params, observation: PyTree) -> Params:
        if params.moments is None:
            return params
        return params._replace(moments=params.moments.include(_floats(observation)))

    mask = _mask(example)
    if mask is not None and mask.shape != (head.num_logits,):
        raise InputError(
            f"the action mask has shape {mask.shape}, but the action space needs one entry for "
            f"each of its {head.num_logits} choices."
        )
    _check_network(module, _shown(example), head.size)
    return Policy(init, outputs, head.distribution, head.to_action, act, value, observe)


def _default_network(
    example: PyTree, size: int, free: int, config: PolicyConfig
) -> networks.ActorCritic:
    shown = jax.tree.leaves(_shown(example))
    if config.torso == "nature_cnn":
        if len(shown) != 1 or len(shown[0].shape) != 3 or min(shown[0].shape[:2]) < 36:
            shapes = [x.shape for x in shown]
            raise InputError(
                f"torso is 'nature_cnn', but observations have shapes {shapes}; it takes one image "
                "[height, width, channels] of at least 36x36: use 'mlp'."
            )
        torso: Callable[[], nn.Module] = networks.NatureCNN
    else:
        torso = partial(networks.MLP, config.hidden_sizes, config.activation)
    return networks.ActorCritic(torso, size, free, config.log_std_init, config.shared_torso)


def _check_network(module: nn.Module, example: PyTree, size: int) -> None:
    """Raises InputError unless `module` maps observations ``[B, ...]`` to ``([B, size], [B])``."""
    batch = jax.tree.map(lambda x: jax.ShapeDtypeStruct((2, *x.shape), x.dtype), example)
    try:
        key = jax.eval_shape(lambda: jax.random.key(0))
        outputs, value = jax.eval_shape(lambda k, x: module.init_with_output(k, x)[0], key, batch)
        shapes = outputs.shape, value.shape
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"the network {type(module).__name__} cannot be called with a batch of observations: "
            f"{type(error).__name__}: {reason}"
        ) from error
    if shapes != ((2, size), (2,)):
        raise InputError(
            f"the network {type(module).__name__} gives shapes {shapes} for a batch of 2, but "
            f"must give {((2, size), (2,))}: policy outputs and values."
        )


def _mask(observation: PyTree) -> Any:
    return observation.get(MASK) if isinstance(observation, dict) else None


def _shown(observation: PyTree) -> PyTree:
    """What the network sees: everything but the mask."""
    if _mask(observation) is None:
        return observation
    return {name: x for name, x in observation.items() if name != MASK}


def _floats(observation: PyTree) -> list[Any]:
    """The leaves to normalise: numbers that are neither categories, flags nor pixels."""
    leaves = jax.tree.leaves(_shown(observation))
    return [x for x in leaves if jnp.issubdtype(x.dtype, jnp.floating)]


def _with_floats(observation: PyTree, floats: list[Any]) -> PyTree:
    """`observation` with its floating leaves replaced, in order."""
    new = iter(floats)
    return jax.tree.map(
        lambda x: next(new) if jnp.issubdtype(x.dtype, jnp.floating) else x, observation
    )
