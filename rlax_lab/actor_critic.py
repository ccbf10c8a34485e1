"""One-step actor-critic, online (Sutton and Barto 2018, section 13.5)."""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from rlax_lab import losses, metrics, optimizers, policy, shards, vector
from rlax_lab.config import check, configuration, setting
from rlax_lab.model import Params
from rlax_lab.normalize import RewardScale, scale_rewards
from rlax_lab.rollout import rollout
from rlax_lab.types import Counter, Environment, Learner, PyTree


@configuration
class Config(policy.PolicyConfig):
    """Configuration of the one-step actor-critic; the defaults solve CartPole-v1."""

    total_steps: int = setting(
        300_000, "environment steps per seed, rounded up to whole updates", low=1
    )
    num_envs: int = setting(16, "parallel environments per seed", low=1)
    num_steps: int = setting(
        32, "steps per environment and update; each is learnt from at once", low=1
    )
    actor_learning_rate: float = setting(
        3e-4, "Adam's step size for the policy (chosen on CartPole-v1)", above=0
    )
    critic_learning_rate: float = setting(
        1e-3, "Adam's step size for the value (chosen on CartPole-v1)", above=0
    )
    anneal_learning_rate: bool = setting(True, "learning rates to 0, linearly over the run")
    adam_eps: float = setting(1e-5, "Adam's epsilon", above=0)
    max_grad_norm: float | None = setting(
        0.5, "global norm to clip each of the two gradients at, none for no clipping", above=0
    )
    gamma: float = setting(0.99, "discount per step", low=0, high=1)
    entropy_coef: float = setting(0.01, "weight of the entropy bonus, per nat", low=0)


class State(NamedTuple):
    """Everything that a run is; to save it is to be able to resume exactly.

    Attributes:
      actor, critic: the optimisers' states.
    """

    params: Params
    actor: optax.OptState
    critic: optax.OptState
    env: vector.EnvState
    reward_scale: RewardScale | None
    key: jax.Array
    steps: Counter


def make(
    env: Environment,
    config: Config | None = None,
    env_params: Any = None,
    network: Callable[[int], nn.Module] | None = None,
) -> Learner:
    """The one-step actor-critic on an environment, as pure functions.

    Every environment step is followed by a gradient step whose advantage is the TD error. The
    paper's factor gamma^t, which all but ignores what happens late in an episode, is left out, as
    everywhere in the field.

    Args:
      env: any environment in gymnax's interface.
      config: hyperparameters; its float fields may be traced, so that ``vmap`` sweeps them.
      env_params: the environment's parameters, by default its own.
      network: a user's own network, see `policy.make`.

    Raises:
      InputError: on a configuration or an environment that cannot work.
    """
    config = config if config is not None else Config()
    env_params = env.default_params if env_params is None else env_params
    check(config)
    vector.check_environment(env, env_params)
    pi = policy.make(env, env_params, config, network)
    # Two optimisers on all weights: where a weight serves only one of the two losses, the other's
    # gradient and direction are zero, so nothing has to be told apart.
    optimizer = optimizers.adam(config.adam_eps, config.max_grad_norm)
    batch_size = config.num_envs * config.num_steps
    total_steps = -(-config.total_steps // batch_size) * batch_size

    def init(key: jax.Array) -> State:
        key, env_key, network_key = jax.random.split(key, 3)
        params = pi.init(network_key)
        return State(
            params=params,
            actor=optimizer.init(params.network),
            critic=optimizer.init(params.network),
            env=vector.reset(env, env_params, shards.own(env_key), config.num_envs),
            reward_scale=RewardScale.zero(config.num_envs) if config.scale_rewards else None,
            key=shards.own(key),
            steps=Counter.zero(),
        )

    def update(state: State) -> tuple[State, metrics.Metrics]:
        state, reports = jax.lax.scan(lambda s, _: one_step(s), state, length=config.num_steps)
        return state, jax.tree.map(lambda x: jnp.sum(x, axis=0), reports)

    def one_step(state: State) -> tuple[State, metrics.Metrics]:
        key, rollout_key = jax.random.split(state.key)
        envs, trajectory = rollout(pi, state.params, env, env_params, state.env, rollout_key, 1)
        step = trajectory.step
        discount = config.gamma * step.discount
        reward, scale = scale_rewards(state.reward_scale, step.reward, step.ended, discount)
        following = pi.value(state.params, step.next_observation)
        target = reward + jnp.where(step.terminated, 0.0, discount) * following
        td_error = target - pi.value(state.params, trajectory.observation)

        def actor_loss(network: PyTree) -> tuple[jax.Array, jax.Array]:
            params = state.params._replace(network=network)
            dist = pi.distribution(pi.outputs(params, trajectory.observation)[0])
            policy_loss = losses.policy_gradient(dist.log_prob(trajectory.action), td_error)
            entropy = jnp.mean(dist.entropy())
            return policy_loss - config.entropy_coef * entropy, entropy

        def critic_loss(network: PyTree) -> jax.Array:
            params = state.params._replace(network=network)
            return losses.squared_error(pi.value(params, trajectory.observation), target)

        network = state.params.network
        of_actor = jax.value_and_grad(actor_loss, has_aux=True)(network)
        of_critic = jax.value_and_grad(critic_loss)(network)
        of_actor, of_critic = shards.mean((of_actor, of_critic))
        (policy_loss, entropy), actor_gradient = of_actor
        value_loss, critic_gradient = of_critic
        remaining = (
            optimizers.remaining(state.steps, total_steps) if config.anneal_learning_rate else 1.0
        )
        direction, actor = optimizer.update(actor_gradient, state.actor)
        network = optimizers.descend(network, direction, config.actor_learning_rate * remaining)
        direction, critic = optimizer.update(critic_gradient, state.critic)
        network = optimizers.descend(network, direction, config.critic_learning_rate * remaining)
        report = {
            "policy_loss": policy_loss,
            "value_loss": value_loss,
            "entropy": entropy,
            "actor_gradient_norm": optimizers.norm(actor_gradient),
            "critic_gradient_norm": optimizers.norm(critic_gradient),
            "gradient_steps": 1.0,
        }
        return State(
            params=pi.observe(state.params._replace(network=network), trajectory.observation),
            actor=actor,
            critic=critic,
            env=envs,
            reward_scale=scale,
            key=key,
            steps=state.steps.add(config.num_envs),
        ), metrics.episodes(step) | report

    scale_axes = shards.axes(RewardScale, returns=0) if config.scale_rewards else None
    axes = shards.axes(State, env=0, reward_scale=scale_axes, key=0)
    return Learner(init, update, pi.act, pi.value, batch_size, total_steps, axes=axes)
