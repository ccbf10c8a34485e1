"""Advantage actor-critic, synchronous (Mnih et al. 2016)."""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from rlax_lab import gradients, losses, metrics, optimizers, policy, shards, vector
from rlax_lab.config import check, configuration, setting
from rlax_lab.model import Params
from rlax_lab.normalize import RewardScale, scale_rewards, standardize
from rlax_lab.policy import Policy
from rlax_lab.rollout import advantages, rollout, successor_values, values
from rlax_lab.types import Counter, Environment, Learner, PyTree


@configuration
class Config(policy.PolicyConfig):
    """Configuration of A2C; the defaults solve CartPole-v1."""

    total_steps: int = setting(
        200_000, "environment steps per seed, rounded up to whole updates", low=1
    )
    num_envs: int = setting(16, "parallel environments per seed (paper: 16 workers)", low=1)
    num_steps: int = setting(5, "steps per environment and update (paper: t_max of 5)", low=1)
    optimizer: str = setting(
        "rmsprop", "RMSProp as in the paper (equation 8), or Adam", choices=("rmsprop", "adam")
    )
    learning_rate: float = setting(
        3e-3, "step size (chosen on CartPole-v1; paper: 1e-4 to 1e-2)", above=0
    )
    anneal_learning_rate: bool = setting(
        True, "learning rate to 0, linearly over the run (paper, section 8)"
    )
    rmsprop_decay: float = setting(
        0.99, "decay of RMSProp's mean square (paper: 0.99)", low=0, high=1
    )
    rmsprop_eps: float = setting(
        1e-5, "RMSProp's epsilon, under the root (OpenAI baselines: 1e-5; paper: 0.1)", above=0
    )
    adam_eps: float = setting(1e-5, "Adam's epsilon (OpenAI baselines: 1e-5)", above=0)
    max_grad_norm: float | None = setting(
        0.5,
        "global gradient norm to clip at, none for no clipping (OpenAI baselines: 0.5)",
        above=0,
    )
    gamma: float = setting(0.99, "discount per step (paper: 0.99)", low=0, high=1)
    gae_lambda: float = setting(
        1.0, "decay of GAE's trace; 1 gives the paper's n-step advantages", low=0, high=1
    )
    value_coef: float = setting(0.5, "weight of the value loss (paper: 0.5)", low=0)
    entropy_coef: float = setting(0.01, "weight of the entropy bonus, per nat (paper: 0.01)", low=0)
    normalize_advantages: bool = setting(False, "standardise the advantages of each batch")


class State(NamedTuple):
    """Everything that a run is; to save it is to be able to resume exactly."""

    params: Params
    optimizer: optax.OptState
    actors: "Actors"
    key: jax.Array
    steps: Counter


class Actors(NamedTuple):
    """Environments that one copy of the parameters acts in."""

    env: vector.EnvState
    reward_scale: RewardScale | None


class Finding(NamedTuple):
    """What actors bring back from a rollout: a gradient, what they saw, and their metrics."""

    gradient: PyTree
    observation: PyTree
    metrics: metrics.Metrics


class Parts(NamedTuple):
    """A2C in the two halves between which A3C's workers wait.

    Attributes:
      policy: the policy.
      start: ``start(key) -> State``.
      gather: ``gather(env) -> Actors`` for environments at their start.
      work: ``work(params, actors, key) -> (actors, Finding)``, a rollout and its gradient.
      land: ``land(params, optimizer, finding, steps) -> (params, optimizer)``, one gradient step.
      total_steps: the environment steps of a whole run.
    """

    policy: Policy
    start: Callable[[jax.Array], State]
    gather: Callable[[vector.EnvState], Actors]
    work: Callable[[Params, Actors, jax.Array], tuple[Actors, Finding]]
    land: Callable[[Params, optax.OptState, Finding, Counter], tuple[Params, optax.OptState]]
    total_steps: int


def make(
    env: Environment,
    config: Config | None = None,
    env_params: Any = None,
    network: Callable[[int], nn.Module] | None = None,
) -> Learner:
    """A2C on an environment, as pure functions.

    Args:
      env: any environment in gymnax's interface.
      config: hyperparameters; its float fields may be traced, so that ``vmap`` sweeps them.
      env_params: the environment's parameters, by default its own.
      network: a user's own network, see `policy.make`.

    Raises:
      InputError: on a configuration or an environment that cannot work.
    """
    config = config if config is not None else Config()
    parts = make_parts(env, config, env_params, network)
    batch_size = config.num_envs * config.num_steps

    def update(state: State) -> tuple[State, metrics.Metrics]:
        key, work_key = jax.random.split(state.key)
        actors, finding = parts.work(state.params, state.actors, work_key)
        params, optimizer = parts.land(state.params, state.optimizer, finding, state.steps)
        steps = state.steps.add(batch_size)
        return State(params, optimizer, actors, key, steps), finding.metrics

    pi = parts.policy
    scale_axes = shards.axes(RewardScale, returns=0) if config.scale_rewards else None
    axes = shards.axes(State, actors=shards.axes(Actors, env=0, reward_scale=scale_axes), key=0)
    return Learner(parts.start, update, pi.act, pi.value, batch_size, parts.total_steps, axes=axes)


def make_parts(
    env: Environment,
    config: Config,
    env_params: Any = None,
    network: Callable[[int], nn.Module] | None = None,
) -> Parts:
    """The halves of A2C; arguments and errors as in `make`."""
    env_params = env.default_params if env_params is None else env_params
    check(config)
    vector.check_environment(env, env_params)
    pi = policy.make(env, env_params, config, network)
    if config.optimizer == "rmsprop":
        optimizer = optimizers.rmsprop(
            config.rmsprop_decay, config.rmsprop_eps, config.max_grad_norm
        )
    else:
        optimizer = optimizers.adam(config.adam_eps, config.max_grad_norm)
    batch_size = config.num_envs * config.num_steps
    total_steps = -(-config.total_steps // batch_size) * batch_size

    def start(key: jax.Array) -> State:
        key, env_key, network_key = jax.random.split(key, 3)
        params = pi.init(network_key)
        actors = gather(vector.reset(env, env_params, shards.own(env_key), config.num_envs))
        optimizer_state = optimizer.init(params.network)
        return State(params, optimizer_state, actors, shards.own(key), Counter.zero())

    def gather(envs: vector.EnvState) -> Actors:
        num_envs = len(envs.episode_length)
        return Actors(envs, RewardScale.zero(num_envs) if config.scale_rewards else None)

    def work(params: Params, actors: Actors, key: jax.Array) -> tuple[Actors, Finding]:
        env_state, trajectory = rollout(
            pi, params, env, env_params, actors.env, key, config.num_steps
        )
        step = trajectory.step
        reward, reward_scale = scale_rewards(
            actors.reward_scale, step.reward, step.ended, config.gamma * step.discount
        )

        value = values(pi, params, trajectory.observation)
        decay = config.gamma, config.gae_lambda
        following = successor_values(pi, params, trajectory, value, env_state.observation)
        advantage = advantages(trajectory, reward, value, following, *decay)
        target = advantage + value
        if config.normalize_advantages:
            advantage = standardize(advantage)
        batch = trajectory.observation, trajectory.action, advantage, target
        # As A3C's workers have fewer environments each, these are not `batch_size`.
        rows = jax.tree.map(lambda x: x.reshape(reward.size, *x.shape[2:]), batch)

        def loss(network: PyTree, rows: Any) -> tuple[jax.Array, metrics.Metrics]:
            observation, action, advantage, target = rows
            outputs, value = pi.outputs(params._replace(network=network), observation)
            dist = pi.distribution(outputs)
            policy_loss = losses.policy_gradient(dist.log_prob(action), advantage)
            value_loss = losses.squared_error(value, target)
            entropy = jnp.mean(dist.entropy())
            total = policy_loss + config.value_coef * value_loss - config.entropy_coef * entropy
            return total, {
                "loss": total,
                "policy_loss": policy_loss,
                "value_loss": value_loss,
                "entropy": entropy,
            }

        gradient, report = gradients.gradient(loss, params.network, rows)
        report |= {"gradient_norm": optimizers.norm(gradient), "gradient_steps": 1.0}
        found = Finding(gradient, trajectory.observation, metrics.episodes(step) | report)
        return Actors(env_state, reward_scale), found

    def land(
        params: Params, state: optax.OptState, finding: Finding, steps: Counter
    ) -> tuple[Params, optax.OptState]:
        remaining = optimizers.remaining(steps, total_steps) if config.anneal_learning_rate else 1.0
        direction, state = optimizer.update(finding.gradient, state, params.network)
        network = optimizers.descend(params.network, direction, config.learning_rate * remaining)
        return pi.observe(params._replace(network=network), finding.observation), state

    return Parts(pi, start, gather, work, land, total_steps)
