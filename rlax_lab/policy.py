"""From an environment and a configuration to a policy: network, action distribution, statistics."""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax

from rlax_lab import model, networks
from rlax_lab.config import configuration, setting
from rlax_lab.distributions import Distribution, action_head
from rlax_lab.model import Params
from rlax_lab.types import Environment, PyTree

# The kinds of action spaces that learners with a policy take.
ACTIONS = ("discrete", "multi-discrete", "continuous")


@configuration
class PolicyConfig(model.ModelConfig):
    """The fields that every learner with a policy has."""

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
    scale_rewards: bool = setting(
        False, "divide rewards by the running deviation of the discounted return"
    )


class Policy(NamedTuple):
    """The functions of one policy; observations have any leading axes ``[...]``.

    Attributes:
      init: ``init(key) -> Params``.
      outputs: ``outputs(params, observation) -> (policy outputs [..., size], value [...])``,
        masked actions already ruled out.
      distribution: ``distribution(outputs) -> Distribution``; of a policy that a plan can guide
        (`rollout.rollout`), also ``distribution(outputs, planned)``.
      to_action: raw actions to what the environment takes.
      act: ``act(params, observation, key=None) -> action``; without a key the mode.
      value: ``value(params, observation) -> [...]``.
      observe: ``observe(params, observation) -> Params``: statistics that have seen it too.
      acts: of a policy of A agents, ``acts(observation) -> [..., A]`` bool, which of them decide
        now. Its values, log-probabilities and entropies are ``[..., A]``, and those of agents that
        do not decide mean nothing.
      credit: of a policy of agents whose values are of something else, V in number: what a
        decision was worth, ``credit(trajectory, value, following, gamma, lambda) -> (advantages
        [T, N, A], value targets [T, N, V], which values mean something [T, N, V])``, where `value`
        ``[T, N, V]`` is of the trajectory's observations and `following` after its steps.
    """

    init: Callable[[jax.Array], Params]
    outputs: Callable[[Params, PyTree], tuple[PyTree, jax.Array]]
    distribution: Callable[..., Distribution]
    to_action: Callable[[jax.Array], PyTree]
    act: Callable[..., PyTree]
    value: Callable[[Params, PyTree], jax.Array]
    observe: Callable[[Params, PyTree], Params]
    acts: Callable[[PyTree], jax.Array] | None = None
    credit: Callable[..., tuple[jax.Array, jax.Array, jax.Array]] | None = None


def make(
    env: Environment,
    env_params: Any,
    config: PolicyConfig,
    network: Callable[[int], nn.Module] | None = None,
) -> Policy:
    """The policy for an environment, whose observations may hold an action mask (`model.make`).

    Args:
      env, env_params: the environment.
      config: network and normalisation.
      network: makes a user's own flax module from the number of policy outputs; it is called with
        a batch of observations and returns (outputs ``[B, size]``, values ``[B]``).

    Raises:
      InputError: on an action space or an observation that the configuration does not fit.
    """
    head = action_head(env.action_space(env_params), config.squash)
    if network is None:
        module: nn.Module = networks.ActorCritic(
            model.torso(env, env_params, config),
            head.size,
            head.free,
            config.log_std_init,
            config.shared_torso,
        )
    else:
        module = network(head.size)
    net = model.make(
        env,
        env_params,
        config.normalize_observations,
        module,
        ((2, head.size), (2,)),
        "policy outputs and values",
        head.num_logits,
    )

    def outputs(params: Params, observation: PyTree) -> tuple[jax.Array, jax.Array]:
        out, value = net.apply(params, observation)
        return net.allow(observation, out), value

    def act(params: Params, observation: PyTree, key: jax.Array | None = None) -> PyTree:
        pi = head.distribution(outputs(params, observation)[0])
        return head.to_action(pi.mode() if key is None else pi.sample(key))

    def value(params: Params, observation: PyTree) -> jax.Array:
        return outputs(params, observation)[1]

    return Policy(net.init, outputs, head.distribution, head.to_action, act, value, net.observe)
