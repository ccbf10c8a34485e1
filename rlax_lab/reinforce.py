"""REINFORCE: Monte-Carlo policy gradient (Williams 1992)."""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from rlax_lab import gradients, losses, metrics, optimizers, policy, shards, vector
from rlax_lab.config import check, configuration, setting
from rlax_lab.errors import InputError
from rlax_lab.model import Params
from rlax_lab.normalize import RewardScale, scale_rewards, standardize
from rlax_lab.rollout import advantages, rollout, successor_values, values
from rlax_lab.types import Counter, Environment, Learner, PyTree


@configuration
class Config(policy.PolicyConfig):
    """Configuration of REINFORCE; the defaults solve CartPole-v1."""

    total_steps: int = setting(
        300_000, "environment steps per seed, rounded up to whole updates", low=1
    )
    num_envs: int = setting(8, "parallel environments per seed", low=1)
    num_steps: int | None = setting(
        None,
        "steps per environment and update; none for the environment's time limit, which holds a "
        "whole episode of any length",
        low=1,
    )
    learning_rate: float = setting(1e-2, "Adam's step size (chosen on CartPole-v1)", above=0)
    anneal_learning_rate: bool = setting(True, "learning rate to 0, linearly over the run")
    adam_eps: float = setting(1e-8, "Adam's epsilon (Kingma and Ba 2015: 1e-8)", above=0)
    max_grad_norm: float | None = setting(
        0.5, "global gradient norm to clip at, none for no clipping", above=0
    )
    gamma: float = setting(0.99, "discount per step", low=0, high=1)
    baseline: bool = setting(
        True, "subtract the value of the observation from the return (Williams 1992, section 4)"
    )
    normalize_returns: bool = setting(
        True, "standardise returns, less the baseline, over each batch"
    )
    value_coef: float = setting(0.5, "weight of the value loss", low=0)
    entropy_coef: float = setting(0.0, "weight of the entropy bonus, per nat", low=0)


class State(NamedTuple):
    """Everything that a run is; to save it is to be able to resume exactly."""

    params: Params
    optimizer: optax.OptState
    reward_scale: RewardScale | None
    key: jax.Array
    steps: Counter


def make(
    env: Environment,
    config: Config | None = None,
    env_params: Any = None,
    network: Callable[[int], nn.Module] | None = None,
) -> Learner:
    """REINFORCE on an environment, as pure functions.

    Every update starts fresh episodes, and plays for `num_steps` steps. Returns are summed to the
    end of each episode. Only where a time limit or the batch cuts an episode short does the learnt
    value stand in for the rest: to count nothing there would be to learn that time runs out.
    Training metrics count episodes that ended, so they lean a little towards short ones.

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
    optimizer = optimizers.adam(config.adam_eps, config.max_grad_norm)
    num_steps = config.num_steps or _time_limit(env_params)
    batch_size = config.num_envs * num_steps
    total_steps = -(-config.total_steps // batch_size) * batch_size

    def init(key: jax.Array) -> State:
        key, network_key = jax.random.split(key)
        params = pi.init(network_key)
        scale = RewardScale.zero(config.num_envs) if config.scale_rewards else None
        optimizer_state = optimizer.init(params.network)
        return State(params, optimizer_state, scale, shards.own(key), Counter.zero())

    def update(state: State) -> tuple[State, metrics.Metrics]:
        key, reset_key, rollout_key = jax.random.split(state.key, 3)
        envs, trajectory = rollout(
            pi,
            state.params,
            env,
            env_params,
            vector.reset(env, env_params, reset_key, config.num_envs),
            rollout_key,
            num_steps,
        )
        step = trajectory.step
        reward, scale = scale_rewards(
            state.reward_scale, step.reward, step.ended, config.gamma * step.discount
        )

        expected = values(pi, state.params, trajectory.observation)
        following = successor_values(pi, state.params, trajectory, expected, envs.observation)
        surplus = advantages(trajectory, reward, expected, following, config.gamma, lambda_=1.0)
        returns = surplus + expected
        weight = surplus if config.baseline else returns
        if config.normalize_returns:
            weight = standardize(weight)
        batch = trajectory.observation, trajectory.action, weight, returns
        rows = jax.tree.map(lambda x: x.reshape(batch_size, *x.shape[2:]), batch)

        def loss(network: PyTree, rows: Any) -> tuple[jax.Array, metrics.Metrics]:
            observation, action, weight, returns = rows
            outputs, value = pi.outputs(state.params._replace(network=network), observation)
            dist = pi.distribution(outputs)
            policy_loss = losses.policy_gradient(dist.log_prob(action), weight)
            value_loss = losses.squared_error(value, returns)
            entropy = jnp.mean(dist.entropy())
            total = policy_loss + config.value_coef * value_loss - config.entropy_coef * entropy
            return total, {
                "loss": total,
                "policy_loss": policy_loss,
                "value_loss": value_loss,
                "entropy": entropy,
            }

        gradient, report = gradients.gradient(loss, state.params.network, rows)
        report |= {"gradient_norm": optimizers.norm(gradient), "gradient_steps": 1.0}
        remaining = (
            optimizers.remaining(state.steps, total_steps) if config.anneal_learning_rate else 1.0
        )
        direction, optimizer_state = optimizer.update(gradient, state.optimizer)
        network = optimizers.descend(
            state.params.network, direction, config.learning_rate * remaining
        )
        params = pi.observe(state.params._replace(network=network), trajectory.observation)
        steps = state.steps.add(batch_size)
        return State(params, optimizer_state, scale, key, steps), metrics.episodes(step) | report

    scale_axes = shards.axes(RewardScale, returns=0) if config.scale_rewards else None
    axes = shards.axes(State, reward_scale=scale_axes, key=0)
    return Learner(init, update, pi.act, pi.value, batch_size, total_steps, axes=axes)


def _time_limit(env_params: Any) -> int:
    """The environment's time limit, as a number of steps to play.

    Raises:
      InputError: where it has none that a batch could hold.
    """
    limit = getattr(env_params, "max_steps_in_episode", None)
    if isinstance(limit, int) and limit <= 100_000:
        return limit
    raise InputError(
        f"num_steps is None, but the environment's max_steps_in_episode is {limit}; give num_steps."
    )
