"""Evolution strategies (Salimans et al. 2017): weights moved towards the better of two mutants.

Every update plays pairs of mutants, the weights plus and minus the same noise, in the same
environment with the same draws, and adds up the noise of all pairs by how much better one of them
did. No gradient passes through the play, so that it may be as long as what is asked for, and a
policy that is cheap is all that it needs.

Environments go on from update to update where the first mutant of their pair has left them (as in
Vicol et al. 2021), so that none begins anew each time. Where there are more of them than an update
plays, they take turns.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.flatten_util
import jax.numpy as jnp
import optax

from rlax_lab import metrics, optimizers, shards
from rlax_lab.config import check, configuration, setting
from rlax_lab.model import Params
from rlax_lab.policy import Policy
from rlax_lab.types import Counter, Learner, PyTree

# ``(weights, environment) -> (environment, return)``.
Play = Callable[[PyTree, PyTree], tuple[PyTree, jax.Array]]


@configuration
class Config:
    """Configuration of evolution strategies, whatever the policy."""

    total_steps: int = setting(20_000, "plays of environments per seed", low=1)
    num_envs: int = setting(
        32, "environments of an update, each played by one pair of mutants", low=1
    )
    noise: float = setting(0.1, "standard deviation of a mutant's weights", above=0)
    differences: str = setting(
        "relative",
        "by what pairs count: their returns' difference in parts of both, as where environments "
        "differ in size, or plain, where a stretch of congestion is to count for what it costs",
        choices=("relative", "plain"),
    )
    learning_rate: float = setting(0.02, "Adam's step size", above=0)
    anneal_learning_rate: bool = setting(True, "learning rate to 0, linearly over the run")
    adam_eps: float = setting(1e-8, "Adam's epsilon", above=0)


class State(NamedTuple):
    """Everything that a run is; `env` are the environments ``[E]``, whose turn is next first."""

    params: Params
    optimizer: optax.OptState
    env: PyTree
    key: jax.Array
    steps: Counter


def make(
    pi: Policy,
    start: Callable[[jax.Array, jax.Array], PyTree],
    play: Play,
    config: Config,
    turns: int = 1,
) -> Learner:
    """Evolution strategies as a learner.

    Args:
      pi: the policy whose weights they are.
      start: ``start(key, number) -> environment``, of those numbered from 0 on.
      play: what one mutant does in one environment, with the environment's own draws.
      config: of the learner.
      turns: how many times as many environments there are as an update plays.

    Raises:
      InputError: on a configuration that cannot work.
    """
    check(config)
    optimizer = optimizers.adam(config.adam_eps, None)
    n = config.num_envs
    steps_per_update = 2 * n
    total_steps = -(-config.total_steps // steps_per_update) * steps_per_update

    def init(key: jax.Array) -> State:
        key, env_key, network_key = jax.random.split(key, 3)
        params = pi.init(network_key)
        env_keys = jax.random.split(shards.own(env_key), turns * n)
        return State(
            params=params,
            optimizer=optimizer.init(params.network),
            env=jax.vmap(start)(env_keys, shards.numbers(len(env_keys))),
            key=shards.own(key),
            steps=Counter.zero(),
        )

    def update(state: State) -> tuple[State, metrics.Metrics]:
        key, noise_key = jax.random.split(state.key)
        network = state.params.network
        noise = _normal(noise_key, network, n)
        plus, minus = (
            jax.tree.map(lambda w, e, sign=sign: w[None] + sign * config.noise * e, network, noise)
            for sign in (1, -1)
        )
        both = jax.tree.map(lambda x, y: jnp.concatenate([x, y]), plus, minus)
        twice = jax.tree.map(lambda x: jnp.concatenate([x[:n], x[:n]]), state.env)
        played, returns = jax.vmap(play)(both, twice)
        env = jax.tree.map(lambda x, y: jnp.concatenate([x[n:], y[:n]]), state.env, played)
        first, second = returns[:n], returns[n:]
        better = advantage(first, second) if config.differences == "relative" else first - second
        gradient, spread = gradient_of(noise, better)
        direction, optimizer_state = optimizer.update(gradient, state.optimizer, network)
        remaining = optimizers.remaining(state.steps, total_steps)
        learning_rate = config.learning_rate * (remaining if config.anneal_learning_rate else 1.0)
        network = optimizers.descend(network, direction, learning_rate)
        return State(
            params=state.params._replace(network=network),
            optimizer=optimizer_state,
            env=env,
            key=key,
            steps=state.steps.add(steps_per_update),
        ), {
            "episodes": jnp.float32(steps_per_update),
            "episode_return": jnp.sum(returns),
            "gradient_steps": jnp.float32(1.0),
            "spread": spread,
            "gradient_norm": optimizers.norm(gradient),
        }

    axes = shards.axes(State, env=0, key=0)
    return Learner(init, update, pi.act, pi.value, steps_per_update, total_steps, axes=axes)


def advantage(first: jax.Array, second: jax.Array) -> jax.Array:
    """By how much the first returns are above the second ``[N]``, in parts of both: in [-1, 1]."""
    return (first - second) / jnp.maximum(jnp.abs(first) + jnp.abs(second), 1e-30)


def gradient_of(noise: PyTree, better: jax.Array) -> tuple[PyTree, jax.Array]:
    """The direction in which returns fall, from the noise ``[N, ...]`` of pairs.

    Args:
      noise: of each first mutant, of unit deviation.
      better: ``[N]`` by how much its return was above the second's.

    Returns:
      The mean of the noise, weighted by minus `better` over its root mean square, of which no pair
      counts for more than twice; and that root mean square.
    """
    spread = jnp.sqrt(shards.mean(jnp.mean(better**2)))
    weight = jnp.clip(better / jnp.maximum(spread, 1e-30), -2.0, 2.0)
    mean = lambda e: -jnp.tensordot(weight, e, 1) / len(weight)  # noqa: E731
    return shards.mean(jax.tree.map(mean, noise)), spread


def _normal(key: jax.Array, like: PyTree, count: int) -> PyTree:
    """Standard normal noise ``[count, ...]`` for every leaf."""
    flat, restore = jax.flatten_util.ravel_pytree(like)
    return jax.vmap(restore)(jax.random.normal(key, (count, flat.size)))
