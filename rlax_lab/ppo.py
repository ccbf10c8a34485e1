"""Proximal policy optimisation (Schulman et al. 2017)."""

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
from rlax_lab.rollout import Trajectory, advantages, rollout, successor_values, values
from rlax_lab.shuffle import permutation
from rlax_lab.types import Counter, Environment, Learner, PyTree


@configuration
class Hyperparameters:
    """Of PPO, whatever the policy; the defaults solve CartPole-v1."""

    total_steps: int = setting(
        500_000, "environment steps per seed, rounded up to whole updates", low=1
    )
    num_envs: int = setting(256, "parallel environments per seed", low=1)
    num_steps: int = setting(32, "steps per environment and update (T of the paper)", low=1)
    num_epochs: int = setting(4, "passes over each batch (paper: 3 to 15)", low=1)
    num_minibatches: int = setting(8, "minibatches per pass", low=1)
    learning_rate: float = setting(
        2e-3, "Adam's step size (chosen on CartPole-v1; the paper has 3e-4)", above=0
    )
    anneal_learning_rate: bool = setting(
        True, "learning rate to 0, linearly over the run (paper, table 5)"
    )
    adam_eps: float = setting(1e-5, "Adam's epsilon (OpenAI baselines: 1e-5)", above=0)
    max_grad_norm: float | None = setting(
        0.5,
        "global gradient norm to clip at, none for no clipping (OpenAI baselines: 0.5)",
        above=0,
    )
    gamma: float = setting(0.99, "discount per step (paper, table 3)", low=0, high=1)
    gae_lambda: float = setting(0.95, "decay of GAE's trace (paper, table 3)", low=0, high=1)
    value_lambda: float | None = setting(
        None, "decay of the trace of the value's targets; none for gae_lambda", low=0, high=1
    )
    objective: str = setting(
        "clip",
        "clipped ratios (paper, equation 7) or an adaptive KL penalty (equation 8)",
        choices=("clip", "kl_penalty"),
    )
    clip_range: float = setting(0.2, "epsilon of the clipped ratios (paper, table 3)", above=0)
    anneal_clip_range: bool = setting(
        False, "clip range to 0, linearly over the run (paper, table 5)"
    )
    kl_coef: float = setting(1.0, "initial beta of the KL penalty (paper, section 6.1)", above=0)
    kl_penalty_target: float = setting(
        0.01, "KL per update that beta adapts to (paper, table 1), in nats", above=0
    )
    target_kl: float | None = setting(
        None, "stop an update's passes once the mean KL of one exceeds 1.5 times this", above=0
    )
    value_clip_range: float | None = setting(
        None, "clip value changes at this, apart from the policy's; none for no clipping", above=0
    )
    value_coef: float = setting(0.5, "weight of the value loss (OpenAI baselines: 0.5)", low=0)
    entropy_coef: float = setting(0.0, "weight of the entropy bonus, per nat", low=0)
    value_updates: int = setting(
        0, "updates at the start that train the value alone, for a policy that begins well", low=0
    )
    advantage_normalization: str = setting(
        "minibatch", "what advantages are standardised over", choices=("minibatch", "batch", "none")
    )


@configuration
class Config(policy.PolicyConfig, Hyperparameters):
    """Configuration of PPO."""


class State(NamedTuple):
    """Everything that a run is; to save it is to be able to resume exactly."""

    params: Params
    optimizer: optax.OptState
    env: vector.EnvState
    reward_scale: RewardScale | None
    kl_coef: jax.Array
    key: jax.Array
    steps: Counter


class Batch(NamedTuple):
    """What one update learns from, one row per environment step ``[B, ...]``; ``[B, A, ...]`` of
    several agents, of which those that `acts` says decided; and the values that `valued` says are
    of something. (To a loss, both are weights.)"""

    observation: PyTree
    action: jax.Array
    log_prob: jax.Array
    outputs: PyTree
    value: jax.Array
    advantage: jax.Array
    target: jax.Array
    acts: jax.Array | None
    valued: jax.Array | None


def make(
    env: Environment,
    config: Any = None,
    env_params: Any = None,
    network: Callable[[int], nn.Module] | None = None,
    pi: policy.Policy | None = None,
) -> Learner:
    """PPO on an environment, as pure functions.

    With a policy of several agents it is multi-agent PPO (Yu et al. 2022): one objective over the
    decisions of all agents, each with the advantages of its own sequence of decisions.

    Args:
      env: any environment in gymnax's interface.
      config: a `Config`, or with `pi` any other `Hyperparameters` that say `scale_rewards`; its
        float fields may be traced, so that ``vmap`` sweeps them.
      env_params: the environment's parameters, by default its own.
      network: a user's own network, see `policy.make`.
      pi: a whole policy in place of the one that `policy.make` gives, as of several agents.

    Raises:
      InputError: on a configuration or an environment that cannot work.
    """
    config = config if config is not None else Config()
    env_params = env.default_params if env_params is None else env_params
    check_config(config)
    vector.check_environment(env, env_params)
    pi = policy.make(env, env_params, config, network) if pi is None else pi
    optimizer = optimizers.adam(config.adam_eps, config.max_grad_norm)
    batch_size = config.num_envs * config.num_steps
    total_steps = -(-config.total_steps // batch_size) * batch_size

    def init(key: jax.Array) -> State:
        key, env_key, network_key = jax.random.split(key, 3)
        params = pi.init(network_key)
        return State(
            params=params,
            optimizer=optimizer.init(params.network),
            env=vector.reset(env, env_params, shards.own(env_key), config.num_envs),
            reward_scale=RewardScale.zero(config.num_envs) if config.scale_rewards else None,
            kl_coef=jnp.float32(config.kl_coef),
            key=shards.own(key),
            steps=Counter.zero(),
        )

    def update(state: State) -> tuple[State, metrics.Metrics]:
        key, rollout_key, learn_key = jax.random.split(state.key, 3)
        env_state, trajectory = rollout(
            pi, state.params, env, env_params, state.env, rollout_key, config.num_steps
        )
        batch, reward_scale = assess(state, trajectory, env_state.observation)
        network, optimizer_state, sums = learn(state, batch, learn_key)
        params = pi.observe(state.params._replace(network=network), trajectory.observation)
        return State(
            params=params,
            optimizer=optimizer_state,
            env=env_state,
            reward_scale=reward_scale,
            kl_coef=adapted_kl_coef(state, network, batch),
            key=key,
            steps=state.steps.add(batch_size),
        ), metrics.episodes(trajectory.step) | sums

    def assess(
        state: State, trajectory: Trajectory, last_observation: PyTree
    ) -> tuple[Batch, RewardScale | None]:
        """Values and advantages of a trajectory, and all of it as rows."""
        step = trajectory.step
        reward, reward_scale = scale_rewards(
            state.reward_scale, step.reward, step.ended, config.gamma * step.discount
        )
        value = values(pi, state.params, trajectory.observation)
        following = successor_values(pi, state.params, trajectory, value, last_observation)
        acts = None if pi.acts is None else pi.acts(trajectory.observation)

        def credit(lambda_: float | jax.Array) -> tuple[jax.Array, jax.Array, jax.Array | None]:
            """Advantages, value targets, and which of these are of something."""
            if pi.credit is not None:
                return pi.credit(trajectory, value, following, config.gamma, lambda_)
            found = advantages(trajectory, reward, value, following, config.gamma, lambda_, acts)
            return found, found + value, acts

        advantage, target, valued = credit(config.gae_lambda)
        if config.value_lambda is not None:
            target = credit(config.value_lambda)[1]
        if config.advantage_normalization == "batch":
            advantage = standardize(advantage, acts)
        rows = Batch(
            trajectory.observation,
            trajectory.action,
            trajectory.log_prob,
            trajectory.outputs,
            value,
            advantage,
            target,
            acts,
            valued,
        )
        return jax.tree.map(lambda x: x.reshape(batch_size, *x.shape[2:]), rows), reward_scale

    def learn(
        state: State, batch: Batch, key: jax.Array
    ) -> tuple[PyTree, optax.OptState, metrics.Metrics]:
        """Passes of shuffled minibatches over a batch."""
        remaining = optimizers.remaining(state.steps, total_steps)
        learning_rate = config.learning_rate * (remaining if config.anneal_learning_rate else 1.0)
        clip_range = config.clip_range * (remaining if config.anneal_clip_range else 1.0)

        # Steps are whole updates, which a float tells apart at any number of them.
        until_policy = float(config.value_updates * batch_size) - state.steps.as_float()
        values_first = until_policy > 0.5 * batch_size
        optimizer_state = state.optimizer
        if config.value_updates:
            # Moments of steps that left the policy out would make its first steps, just when the
            # values are at their worst, several times as long as the learning rate says.
            begins = jnp.abs(until_policy) < 0.5 * batch_size
            optimizer_state = jax.tree.map(
                lambda new, old: jnp.where(begins, new, old),
                optimizer.init(state.params.network),
                optimizer_state,
            )

        def loss(network: PyTree, rows: Batch) -> tuple[jax.Array, metrics.Metrics]:
            outputs, value = pi.outputs(state.params._replace(network=network), rows.observation)
            dist = pi.distribution(outputs)
            log_prob = dist.log_prob(rows.action)
            advantage, acts, valued = rows.advantage, rows.acts, rows.valued
            if config.objective == "clip":
                kl = losses.approximate_kl(log_prob, rows.log_prob, acts)
                policy_loss = losses.clipped_surrogate(
                    log_prob, rows.log_prob, advantage, clip_range, acts
                )
            else:
                kl = losses.mean(pi.distribution(rows.outputs).kl(dist), acts)
                policy_loss = losses.surrogate(log_prob, rows.log_prob, advantage, acts)
                policy_loss += state.kl_coef * kl
            if config.value_clip_range is None:
                value_loss = losses.squared_error(value, rows.target, valued)
            else:
                value_loss = losses.clipped_squared_error(
                    value, rows.value, rows.target, config.value_clip_range, valued
                )
            entropy = losses.mean(dist.entropy(), acts)
            objective = jnp.where(values_first, 0.0, policy_loss - config.entropy_coef * entropy)
            total = objective + config.value_coef * value_loss
            ratio = jnp.exp(log_prob - rows.log_prob)
            return total, {
                "loss": total,
                "policy_loss": policy_loss,
                "value_loss": value_loss,
                "entropy": entropy,
                "kl": kl,
                "clip_fraction": losses.mean(
                    (jnp.abs(ratio - 1.0) > clip_range).astype(jnp.float32), acts
                ),
            }

        def weigh(indices: jax.Array) -> dict[str, jax.Array | None]:
            """What a minibatch's rows count for, by means over those of all parts."""
            advantage, acts, valued = jax.tree.map(
                lambda x: x[indices], (batch.advantage, batch.acts, batch.valued)
            )
            if config.advantage_normalization == "minibatch":
                advantage = standardize(advantage, acts)
            acts, valued = shards.weights(acts), shards.weights(valued)
            return {"advantage": advantage, "acts": acts, "valued": valued}

        def gradient_step(carry: Any, minibatch: Any) -> tuple[Any, metrics.Metrics]:
            network, optimizer_state = carry
            indices, weights = minibatch
            rows = jax.tree.map(lambda x: x[indices], batch)._replace(**weights)
            gradient, report = gradients.gradient(loss, network, rows)
            direction, optimizer_state = optimizer.update(gradient, optimizer_state, network)
            network = optimizers.descend(network, direction, learning_rate)
            report |= {"gradient_norm": optimizers.norm(gradient), "gradient_steps": 1.0}
            return (network, optimizer_state), report

        def one_pass(carry: Any) -> Any:
            epoch, _, learning, sums = carry
            order = permutation(jax.random.fold_in(key, epoch), batch_size)
            order = order.reshape(config.num_minibatches, -1)
            # Of all minibatches at once, as parts wait for each other wherever they take a mean.
            learning, reports = jax.lax.scan(
                gradient_step, learning, (order, jax.vmap(weigh)(order))
            )
            kl = jnp.mean(reports["kl"])
            reports = jax.tree.map(lambda x: jnp.sum(x, axis=0), reports)
            return epoch + 1, kl, learning, jax.tree.map(jnp.add, sums, reports)

        def goes_on(carry: Any) -> jax.Array:
            epoch, kl, *_ = carry
            if config.target_kl is None:
                return epoch < config.num_epochs
            return (epoch < config.num_epochs) & (kl <= 1.5 * config.target_kl)

        learning = state.params.network, optimizer_state
        order = jnp.zeros(batch_size // config.num_minibatches, jnp.int32)
        report = jax.eval_shape(lambda: gradient_step(learning, (order, weigh(order)))[1])
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape), report)
        start = jnp.int32(0), jnp.float32(0.0), learning, zeros
        _, _, (network, optimizer_state), sums = jax.lax.while_loop(goes_on, one_pass, start)
        return network, optimizer_state, sums

    def adapted_kl_coef(state: State, network: PyTree, batch: Batch) -> jax.Array:
        """Beta doubled or halved by how far the update moved the policy (paper, section 4)."""
        if config.objective == "clip":
            return state.kl_coef
        outputs, _ = pi.outputs(state.params._replace(network=network), batch.observation)
        kl = pi.distribution(batch.outputs).kl(pi.distribution(outputs))
        kl, target = shards.mean_of(kl, batch.acts), config.kl_penalty_target
        factor = jnp.where(kl > 1.5 * target, 2.0, jnp.where(kl < target / 1.5, 0.5, 1.0))
        return state.kl_coef * factor

    scale_axes = shards.axes(RewardScale, returns=0) if config.scale_rewards else None
    axes = shards.axes(State, env=0, reward_scale=scale_axes, key=0)
    return Learner(init, update, pi.act, pi.value, batch_size, total_steps, axes=axes)


def check_config(config: Hyperparameters) -> None:
    """Raises InputError, in one sentence, on a configuration that cannot work."""
    check(config)
    batch_size = config.num_envs * config.num_steps
    if batch_size % config.num_minibatches:
        divisors = [d for d in range(1, batch_size + 1) if batch_size % d == 0]
        closest = min(divisors, key=lambda d: abs(d - config.num_minibatches))
        raise InputError(
            f"num_minibatches is {config.num_minibatches}, which does not divide the batch of "
            f"num_envs * num_steps = {batch_size}; the nearest number that does is {closest}."
        )
