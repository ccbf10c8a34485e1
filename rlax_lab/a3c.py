"""Asynchronous advantage actor-critic (Mnih et al. 2016)."""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from rlax_lab import a2c, metrics
from rlax_lab.config import check, configuration, setting
from rlax_lab.errors import InputError
from rlax_lab.model import Params
from rlax_lab.types import Counter, Environment, Learner


@configuration
class Config(a2c.Config):
    """Configuration of A3C, A2C's and the workers'; the defaults solve CartPole-v1."""

    learning_rate: float = setting(
        2e-3, "step size (chosen on CartPole-v1; paper: 1e-4 to 1e-2)", above=0
    )
    num_workers: int = setting(
        4, "workers, each with its own environments and its own copy of the parameters", low=1
    )
    delays: str = setting(
        "exponential",
        "how long a rollout takes each worker: equally long, so that they land in turn; "
        "exponential, so that any is equally likely to land next; log-normal; or fixed but uneven, "
        "from 1 to delay_spread",
        choices=("equal", "exponential", "lognormal", "uneven"),
    )
    delay_spread: float = setting(
        4.0,
        "lognormal: the factor that one standard deviation makes; uneven: how many times longer "
        "the slowest worker takes than the fastest",
        low=1,
    )


class Worker(NamedTuple):
    """One worker, or all of them ``[W, ...]``.

    Attributes:
      params: its copy of the parameters, as old as its last landing.
      actors: its environments.
      copied_at: the number of landings, of all workers, when it made its copy.
      lands_in: the time left until it lands, in mean rollouts of one worker.
    """

    params: Params
    actors: a2c.Actors
    copied_at: jax.Array
    lands_in: jax.Array


class State(NamedTuple):
    """Everything that a run is; to save it is to be able to resume exactly.

    Attributes:
      params, optimizer: the global parameters, and the RMSProp statistics that all workers share.
      workers: ``[W, ...]``.
      landings: how many gradients were applied (wraps around at 2^32, as its differences do).
      key, steps: as in every learner.
    """

    params: Params
    optimizer: optax.OptState
    workers: Worker
    landings: jax.Array
    key: jax.Array
    steps: Counter


def make(
    env: Environment,
    config: Config | None = None,
    env_params: Any = None,
    network: Callable[[int], nn.Module] | None = None,
) -> Learner:
    """A3C on an environment, as pure functions.

    The workers' asynchrony is that of a simulated clock: each rollout takes its worker a time drawn
    from the key. Whoever's time is up first lands: it applies the gradient that it found at its
    own, stale copy to the global parameters, and copies those. So the order is reproducible, and
    one worker is A2C to the last bit.

    Args:
      env: any environment in gymnax's interface.
      config: hyperparameters; its float fields may be traced, so that ``vmap`` sweeps them.
      env_params: the environment's parameters, by default its own.
      network: a user's own network, see `policy.make`.

    Raises:
      InputError: on a configuration or an environment that cannot work.
    """
    config = config if config is not None else Config()
    check_config(config)
    num_workers = config.num_workers
    parts = a2c.make_parts(env, config, env_params, network)
    batch_size = config.num_envs * config.num_steps

    def init(key: jax.Array) -> State:
        start = parts.start(key)
        groups = jax.tree.map(lambda x: x.reshape(num_workers, -1, *x.shape[1:]), start.actors.env)
        phase = jnp.arange(1, num_workers + 1) / num_workers
        indices = jnp.arange(num_workers)
        delay_keys = jax.random.split(_delay_key(start.key), num_workers)
        workers = Worker(
            params=jax.tree.map(lambda x: jnp.stack([x] * num_workers), start.params),
            actors=jax.vmap(parts.gather)(groups),
            copied_at=jnp.zeros(num_workers, jnp.uint32),
            lands_in=phase * jax.vmap(delay)(indices, delay_keys),
        )
        return State(start.params, start.optimizer, workers, jnp.uint32(0), start.key, start.steps)

    def update(state: State) -> tuple[State, metrics.Metrics]:
        """As many landings as there are workers."""
        state, reports = jax.lax.scan(lambda s, _: landing(s), state, length=num_workers)
        return state, jax.tree.map(lambda x: jnp.sum(x, axis=0), reports)

    def landing(state: State) -> tuple[State, metrics.Metrics]:
        key, work_key = jax.random.split(state.key)
        next_ = jnp.argmin(state.workers.lands_in)
        worker = jax.tree.map(lambda x: x[next_], state.workers)
        actors, finding = parts.work(worker.params, worker.actors, work_key)
        params, optimizer = parts.land(state.params, state.optimizer, finding, state.steps)
        landings = state.landings + 1
        staleness = state.landings - worker.copied_at
        waiting = state.workers._replace(lands_in=state.workers.lands_in - worker.lands_in)
        worker = Worker(params, actors, landings, delay(next_, _delay_key(work_key)))
        workers = jax.tree.map(lambda xs, x: xs.at[next_].set(x), waiting, worker)
        steps = state.steps.add(batch_size // num_workers)
        report = finding.metrics | {"staleness": staleness.astype(jnp.float32)}
        return State(params, optimizer, workers, landings, key, steps), report

    def delay(worker: jax.Array, key: jax.Array) -> jax.Array:
        """How long the next rollout takes a worker."""
        if config.delays == "equal":
            return jnp.float32(1.0)
        if config.delays == "exponential":
            return jax.random.exponential(key)
        if config.delays == "lognormal":
            return jnp.float32(config.delay_spread) ** jax.random.normal(key)
        rank = worker.astype(jnp.float32) / max(1, num_workers - 1)
        return jnp.float32(config.delay_spread) ** rank

    pi = parts.policy
    return Learner(init, update, pi.act, pi.value, batch_size, parts.total_steps)


def _delay_key(key: jax.Array) -> jax.Array:
    """A key apart from all that `key` is split into, so that delays leave the rollouts alone."""
    return jax.random.fold_in(key, jnp.uint32(2**31))


def check_config(config: Config) -> None:
    """Raises InputError, in one sentence, on a configuration that cannot work."""
    check(config)
    if config.num_envs % config.num_workers:
        divisors = [d for d in range(1, config.num_envs + 1) if config.num_envs % d == 0]
        closest = min(divisors, key=lambda d: abs(d - config.num_workers))
        raise InputError(
            f"num_workers is {config.num_workers}, which does not divide num_envs = "
            f"{config.num_envs}; the nearest number that does is {closest}."
        )
