"""Deep Q-learning (Mnih et al. 2015), with the parts of Rainbow (Hessel et al. 2018)."""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from rlax_lab import losses, metrics, model, networks, optimizers, replay, shards, vector
from rlax_lab.config import check, configuration, setting
from rlax_lab.distributions import Distribution, epsilon_greedy, greedy_unless
from rlax_lab.errors import InputError
from rlax_lab.model import Params
from rlax_lab.policy import Policy
from rlax_lab.returns import n_step
from rlax_lab.rollout import Trajectory, rollout
from rlax_lab.types import Counter, Environment, Learner, PyTree

# The kinds of action spaces that DQN takes.
ACTIONS = ("discrete",)


@configuration
class Config(model.ModelConfig):
    """Configuration of DQN; the defaults solve CartPole-v1."""

    hidden_sizes: tuple[int, ...] = setting((120, 84), "layers of the mlp torso (CleanRL: 120, 84)")
    activation: str = setting(
        "relu",
        "nonlinearity of the mlp torso (Mnih et al. 2015: relu)",
        choices=tuple(networks.ACTIVATIONS),
    )
    total_steps: int = setting(
        100_000, "environment steps per seed, rounded up to whole updates", low=1
    )
    num_envs: int = setting(8, "parallel environments per seed", low=1)
    num_steps: int = setting(8, "steps per environment and update", low=1)
    num_gradient_steps: int = setting(
        32, "gradient steps per update; over num_envs * num_steps, their ratio to steps", low=1
    )
    batch_size: int = setting(64, "transitions per gradient step (paper: 32)", low=1)
    buffer_size: int = setting(
        10_000, "transitions that replay holds (paper: 1M; CartPole-v1 wants fresh ones)", low=1
    )
    learning_starts: int = setting(
        1000, "steps of a uniformly random policy before the first update (paper: 50k)", low=1
    )
    learning_rate: float = setting(1e-3, "Adam's step size (chosen on CartPole-v1)", above=0)
    anneal_learning_rate: bool = setting(True, "learning rate to 0, linearly over the run")
    adam_eps: float = setting(1.5e-4, "Adam's epsilon (Hessel et al. 2018: 1.5e-4)", above=0)
    max_grad_norm: float | None = setting(
        10.0,
        "global gradient norm to clip at, none for no clipping (Wang et al. 2016: 10)",
        above=0,
    )
    gamma: float = setting(0.99, "discount per step (paper: 0.99)", low=0, high=1)
    target_period: int = setting(
        100, "gradient steps between two updates of the target network (paper: 10k)", low=1
    )
    tau: float = setting(
        1.0,
        "how far each of them moves the target towards the network: 1 copies it (paper), a small "
        "tau with a target_period of 1 follows it softly (Lillicrap et al. 2016)",
        above=0,
        high=1,
    )
    epsilon_start: float = setting(1.0, "initial probability of a random action", low=0, high=1)
    epsilon_end: float = setting(0.05, "final probability of a random action", low=0, high=1)
    epsilon_schedule: str = setting(
        "linear",
        "from start to end by equal steps or equal factors",
        choices=("linear", "exponential"),
    )
    epsilon_fraction: float = setting(
        0.2, "part of the run over which epsilon goes from start to end", above=0, high=1
    )
    exploration_repeat: float | None = setting(
        None,
        "exploring actions are repeated n times with probability in proportion to n to the power "
        "of minus this (Dabney, Ostrovski and Barreto 2021: 2), none for once",
        above=1,
    )
    loss: str = setting(
        "squared",
        "of the TD error, or linear beyond 1 (paper, with rewards of +-1; where values are large, "
        "its median-like fit can diverge)",
        choices=("squared", "huber"),
    )
    double: bool = setting(
        False, "the network, not the target, picks the next action (van Hasselt et al. 2016)"
    )
    dueling: bool = setting(False, "streams for value and advantages (Wang et al. 2016)")
    n_step: int = setting(1, "rewards before the bootstrap (Sutton 1988; Rainbow: 3)", low=1)
    prioritized: bool = setting(
        False, "draw transitions in proportion to their error (Schaul et al. 2016)"
    )
    priority_exponent: float = setting(
        0.6, "alpha: 0 draws uniformly, 1 in proportion (Schaul et al. 2016: 0.6)", low=0, high=1
    )
    importance_exponent: float = setting(
        0.4,
        "initial beta, which goes to 1 over the run: how far weights undo the bias "
        "(Schaul et al. 2016: 0.4)",
        low=0,
        high=1,
    )
    distributional: str = setting(
        "none",
        "learn the return's distribution: categorical, C51 (Bellemare et al. 2017), or quantile, "
        "QR-DQN (Dabney et al. 2018)",
        choices=("none", "categorical", "quantile"),
    )
    num_atoms: int = setting(51, "atoms or quantiles of the distribution (C51: 51)", low=2)
    v_min: float = setting(0.0, "lowest atom of a categorical distribution: no return may be below")
    v_max: float = setting(
        100.0, "highest atom of a categorical distribution: no return may be above"
    )


# Everything of Rainbow but noisy networks; v_min and v_max are those of CartPole-v1.
RAINBOW = Config(
    double=True,
    dueling=True,
    n_step=3,
    prioritized=True,
    priority_exponent=0.5,
    distributional="categorical",
)

PRESETS = {"rainbow": RAINBOW}


class State(NamedTuple):
    """Everything that a run is; to save it is to be able to resume exactly.

    Attributes:
      params: the network that acts and learns.
      target: the older weights that targets are computed with.
      optimizer: Adam's state.
      env: the environments.
      recent: their last n - 1 steps, whose n-step returns are not known yet ``[n - 1, N]``; None
        if n is 1.
      buffer: the transitions to learn from.
      priorities: the tree over them, and the largest priority ever; None without.
      exploring: the exploring actions under way; None if they are not repeated.
      gradient_steps: how many were taken (wraps around at 2^32).
      key, steps: as in every learner.
    """

    params: Params
    target: PyTree
    optimizer: optax.OptState
    env: vector.EnvState
    recent: "Steps | None"
    buffer: replay.Buffer
    priorities: "Priorities | None"
    exploring: "Exploring | None"
    gradient_steps: jax.Array
    key: jax.Array
    steps: Counter


class Steps(NamedTuple):
    """Steps of environments, time-major ``[T, N, ...]``."""

    observation: PyTree
    action: jax.Array
    reward: jax.Array
    terminated: jax.Array
    truncated: jax.Array
    discount: jax.Array
    next_observation: PyTree


class Transition(NamedTuple):
    """What replay holds: n steps of one environment in one, ``[...]``.

    Attributes:
      observation, action: the first of them.
      reward: their discounted rewards.
      discount: of the value of what followed: gamma^n, less for steps that took time, or zero
        after a termination.
      next_observation: what followed; the final observation where the episode ended.
    """

    observation: PyTree
    action: jax.Array
    reward: jax.Array
    discount: jax.Array
    next_observation: PyTree


class Priorities(NamedTuple):
    """What prioritised replay draws by."""

    tree: replay.SumTree
    largest: jax.Array


class Exploring(NamedTuple):
    """Exploring actions under way, of each environment ``[N]``.

    Attributes:
      left: how many more times they are taken; 0 where there is none.
      place: which, as a place in [0, 1) among the actions that are allowed.
    """

    left: jax.Array
    place: jax.Array


class Learning(NamedTuple):
    """What changes from gradient step to gradient step."""

    network: PyTree
    target: PyTree
    optimizer: optax.OptState
    priorities: Priorities | None
    gradient_steps: jax.Array


def make(
    env: Environment,
    config: Config | None = None,
    env_params: Any = None,
    network: Callable[[int], nn.Module] | None = None,
) -> Learner:
    """DQN on an environment with discrete actions, as pure functions.

    `init` fills the buffer with `learning_starts` random steps, so that every update is alike: it
    acts, and it learns.

    Args:
      env: any environment in gymnax's interface.
      config: hyperparameters; its float fields may be traced, so that ``vmap`` sweeps them.
      env_params: the environment's parameters, by default its own.
      network: makes a user's own flax module from the number of actions; it is called with a batch
        of observations and returns values ``[B, actions]``, or ``[B, actions, num_atoms]`` if
        distributional.

    Raises:
      InputError: on a configuration or an environment that cannot work.
    """
    config = config if config is not None else Config()
    env_params = env.default_params if env_params is None else env_params
    check_config(config)
    vector.check_environment(env, env_params)
    num_actions = _num_actions(env.action_space(env_params))
    net = _model(env, env_params, config, num_actions, network)
    optimizer = optimizers.adam(config.adam_eps, config.max_grad_norm)
    atoms = jnp.linspace(config.v_min, config.v_max, config.num_atoms)
    repeats = _repeats(config)
    num_envs, per_update = config.num_envs, config.num_envs * config.num_steps
    initial_rows = _initial_rows(config)
    initial_steps = initial_rows * num_envs
    num_updates = max(1, -(-(config.total_steps - initial_steps) // per_update))
    total_steps = initial_steps + num_updates * per_update

    def values(observation: PyTree, outputs: jax.Array) -> jax.Array:
        """Action values ``[..., actions]`` from the network's outputs."""
        if config.distributional == "categorical":
            outputs = jnp.sum(jax.nn.softmax(outputs) * _over(atoms, outputs), axis=-1)
        elif config.distributional == "quantile":
            outputs = jnp.mean(outputs, axis=-1)
        return net.allow(observation, outputs)

    def q(params: Params, observation: PyTree) -> tuple[jax.Array, jax.Array]:
        action_values = values(observation, net.apply(params, observation))
        return action_values, jnp.max(action_values, axis=-1)

    def policy(epsilon: float | jax.Array) -> Policy:
        def distribution(outputs: jax.Array, planned: jax.Array | None = None) -> Distribution:
            if planned is None:
                return epsilon_greedy(outputs, epsilon)
            return greedy_unless(outputs, planned)

        def act(params: Params, observation: PyTree, key: jax.Array | None = None) -> jax.Array:
            pi = distribution(q(params, observation)[0])
            return to_action(pi.mode() if key is None else pi.sample(key))

        def value(params: Params, observation: PyTree) -> jax.Array:
            return q(params, observation)[1]

        return Policy(net.init, q, distribution, to_action, act, value, net.observe)

    def to_action(raw: jax.Array) -> jax.Array:
        return raw.astype(getattr(env.action_space(env_params), "dtype", jnp.int32))

    def init(key: jax.Array) -> State:
        key, env_key, network_key, act_key = jax.random.split(key, 4)
        key, env_key, act_key = map(shards.own, (key, env_key, act_key))
        exploring, plan = explore(_exploring(config), act_key, 1.0, initial_rows)
        params = net.init(network_key)
        envs = vector.reset(env, env_params, env_key, num_envs)
        envs, trajectory = rollout(
            policy(1.0), params, env, env_params, envs, act_key, initial_rows, plan
        )
        steps = _steps(trajectory)
        found = transitions(steps)
        example = jax.tree.map(lambda x: x[0], found)
        state = State(
            params=net.observe(params, steps.observation),
            target=params.network,
            optimizer=optimizer.init(params.network),
            env=envs,
            recent=_last(steps, config.n_step - 1),
            buffer=replay.Buffer.empty(example, config.buffer_size),
            priorities=Priorities(replay.SumTree.empty(config.buffer_size), jnp.float32(1.0))
            if config.prioritized
            else None,
            exploring=exploring,
            gradient_steps=jnp.uint32(0),
            key=key,
            steps=Counter.zero().add(initial_steps),
        )
        buffer, priorities = remember(state, found)
        return state._replace(buffer=buffer, priorities=priorities)

    def update(state: State) -> tuple[State, metrics.Metrics]:
        key, act_key, learn_key = jax.random.split(state.key, 3)
        now = epsilon(state.steps)
        exploring, plan = explore(state.exploring, act_key, now, config.num_steps)
        envs, trajectory = rollout(
            policy(now),
            state.params,
            env,
            env_params,
            state.env,
            act_key,
            config.num_steps,
            plan,
        )
        steps = _steps(trajectory)
        if state.recent is not None:
            steps = jax.tree.map(lambda x, y: jnp.concatenate([x, y]), state.recent, steps)
        buffer, priorities = remember(state, transitions(steps))
        learning, sums = learn(state._replace(buffer=buffer, priorities=priorities), learn_key)
        params = state.params._replace(network=learning.network)
        return State(
            params=net.observe(params, trajectory.observation),
            target=learning.target,
            optimizer=learning.optimizer,
            env=envs,
            recent=_last(steps, config.n_step - 1),
            buffer=buffer,
            priorities=learning.priorities,
            exploring=exploring,
            gradient_steps=learning.gradient_steps,
            key=key,
            steps=state.steps.add(per_update),
        ), metrics.episodes(trajectory.step) | sums

    def epsilon(steps: Counter) -> jax.Array:
        progress = (1.0 - optimizers.remaining(steps, total_steps)) / config.epsilon_fraction
        progress = jnp.minimum(1.0, progress)
        if config.epsilon_schedule == "linear":
            return config.epsilon_start + progress * (config.epsilon_end - config.epsilon_start)
        return config.epsilon_start * (config.epsilon_end / config.epsilon_start) ** progress

    def explore(
        exploring: Exploring | None, key: jax.Array, epsilon: float | jax.Array, rows: int
    ) -> tuple[Exploring | None, jax.Array | None]:
        """Where exploring actions are repeated: which are taken when, ``[rows, N]``.

        Entries are places of actions as in `Exploring`, or -1 for the greedy action.
        """
        if exploring is None or repeats is None:
            return None, None

        def step(exploring: Exploring, key: jax.Array) -> tuple[Exploring, jax.Array]:
            start, length, place = jax.random.uniform(key, (3, num_envs))
            starts = (exploring.left == 0) & (start < epsilon)
            left = jnp.where(starts, 1 + jnp.searchsorted(repeats, length), exploring.left)
            place = jnp.where(starts, place, exploring.place)
            return Exploring(jnp.maximum(left - 1, 0), place), jnp.where(left > 0, place, -1.0)

        return jax.lax.scan(step, exploring, jax.random.split(jax.random.fold_in(key, 0), rows))

    def transitions(steps: Steps) -> Transition:
        """The n-step transitions in T rows of steps, ``[(T - n + 1) N, ...]``."""
        discount = jnp.where(steps.terminated, 0.0, config.gamma * steps.discount)
        ended = steps.terminated | steps.truncated
        reward, discount, last = n_step(steps.reward, discount, ended, config.n_step)
        rows = len(reward)
        columns = jnp.broadcast_to(jnp.arange(num_envs)[None], last.shape)
        found = Transition(
            jax.tree.map(lambda x: x[:rows], steps.observation),
            steps.action[:rows],
            reward,
            discount,
            jax.tree.map(lambda x: x[last, columns], steps.next_observation),
        )
        return jax.tree.map(lambda x: x.reshape(rows * num_envs, *x.shape[2:]), found)

    def remember(state: State, found: Transition) -> tuple[replay.Buffer, Priorities | None]:
        """Puts transitions into replay, at the largest priority so that each is seen soon."""
        buffer, indices = state.buffer.add(found)
        if state.priorities is None:
            return buffer, None
        tree, largest = state.priorities
        weights = jnp.full(indices.shape, largest**config.priority_exponent)
        return buffer, Priorities(tree.set(indices, weights), largest)

    def learn(state: State, key: jax.Array) -> tuple[Learning, metrics.Metrics]:
        """Gradient steps on batches drawn from replay."""
        ahead = optimizers.remaining(state.steps, total_steps)
        learning_rate = config.learning_rate * (ahead if config.anneal_learning_rate else 1.0)
        beta = 1.0 - ahead * (1.0 - config.importance_exponent)

        def draw(priorities: Priorities | None, x: jax.Array) -> tuple[jax.Array, jax.Array]:
            """Indices and importance weights of one batch, from its element of `draws`."""
            if priorities is None:
                return x, jnp.ones(config.batch_size)
            indices, weights = priorities.tree.draw(x, config.batch_size)
            return indices, replay.importance_weights(weights, beta)

        def loss(
            network: PyTree, target: PyTree, batch: Transition, weight: jax.Array
        ) -> tuple[jax.Array, tuple[jax.Array, metrics.Metrics]]:
            params, old = (
                state.params._replace(network=network),
                state.params._replace(network=target),
            )
            outputs = net.apply(params, batch.observation)
            following = net.apply(old, batch.next_observation)
            judge = net.apply(params, batch.next_observation) if config.double else following
            best = jnp.argmax(values(batch.next_observation, judge), axis=-1)
            chosen, following = _pick(outputs, batch.action), _pick(following, best)
            error, priority = errors(chosen, jax.lax.stop_gradient(following), batch)
            total = jnp.mean(weight * error)
            value = jnp.mean(_pick(values(batch.observation, outputs), batch.action))
            return total, (priority, {"loss": total, "value": value})

        def errors(
            chosen: jax.Array, following: jax.Array, batch: Transition
        ) -> tuple[jax.Array, jax.Array]:
            """The loss of each transition, and how surprising it was ``[B]``."""
            if config.distributional == "categorical":
                target = losses.project_distribution(
                    atoms, jax.nn.softmax(following), batch.reward, batch.discount
                )
                cross_entropy = -jnp.sum(target * jax.nn.log_softmax(chosen), axis=-1)
                entropy = -jnp.sum(jax.scipy.special.xlogy(target, target), axis=-1)
                # The divergence, which rounding can take below zero.
                return cross_entropy, jnp.maximum(cross_entropy - entropy, 0.0)
            if config.distributional == "quantile":
                target = batch.reward[:, None] + batch.discount[:, None] * following
                gap = jnp.mean(target, axis=-1) - jnp.mean(chosen, axis=-1)
                return losses.quantile_huber(chosen, target), jnp.abs(gap)
            error = batch.reward + batch.discount * following - chosen
            loss = losses.huber(error) if config.loss == "huber" else 0.5 * jnp.square(error)
            return loss, jnp.abs(error)

        def gradient_step(learning: Learning, x: jax.Array) -> tuple[Learning, metrics.Metrics]:
            network, target, optimizer_state, priorities, count = learning
            indices, weight = draw(priorities, x)
            gradient, (priority, report) = jax.grad(loss, has_aux=True)(
                network, target, state.buffer.take(indices), weight
            )
            gradient, report = shards.mean((gradient, report))
            if priorities is not None:
                tree, largest = priorities
                priority = jax.lax.stop_gradient(priority) + 1e-6
                tree = tree.set(indices, priority**config.priority_exponent)
                priorities = Priorities(tree, jnp.maximum(largest, jnp.max(priority)))
            direction, optimizer_state = optimizer.update(gradient, optimizer_state, network)
            network = optimizers.descend(network, direction, learning_rate)
            count = count + 1
            step = jnp.where(count % config.target_period == 0, config.tau, 0.0)
            target = jax.tree.map(lambda t, w: (1.0 - step) * t + step * w, target, network)
            report |= {"gradient_norm": optimizers.norm(gradient), "gradient_steps": 1.0}
            return Learning(network, target, optimizer_state, priorities, count), report

        start = Learning(
            state.params.network,
            state.target,
            state.optimizer,
            state.priorities,
            state.gradient_steps,
        )
        steps = config.num_gradient_steps
        # Uniform draws of all steps at once; where priorities change in between, a key for each.
        draws = (
            state.buffer.draw(key, (steps, config.batch_size))
            if state.priorities is None
            else jax.random.split(key, steps)
        )
        learning, reports = jax.lax.scan(gradient_step, start, draws)
        return learning, jax.tree.map(lambda x: jnp.sum(x, axis=0), reports)

    pi = policy(config.epsilon_end)
    axes = shards.axes(State, env=0, recent=0, buffer=0, priorities=0, exploring=0, key=0)
    return Learner(
        init, update, pi.act, pi.value, per_update, total_steps, initial_steps, axes=axes
    )


def _model(
    env: Environment,
    env_params: Any,
    config: Config,
    num_actions: int,
    network: Callable[[int], nn.Module] | None,
) -> model.Model:
    num_atoms = None if config.distributional == "none" else config.num_atoms
    if network is None:
        module: nn.Module = networks.QNetwork(
            model.torso(env, env_params, config), num_actions, num_atoms, config.dueling
        )
    else:
        module = network(num_actions)
    return model.make(
        env,
        env_params,
        config.normalize_observations,
        module,
        (2, num_actions) if num_atoms is None else (2, num_actions, num_atoms),
        "a value per action" if num_atoms is None else "a distribution per action",
        num_actions,
    )


def _exploring(config: Config) -> Exploring | None:
    """No exploring action under way."""
    if config.exploration_repeat is None:
        return None
    return Exploring(jnp.zeros(config.num_envs, jnp.int32), jnp.zeros(config.num_envs))


def _repeats(config: Config) -> jax.Array | None:
    """The probabilities of at most 1, 2, ... repetitions ``[10000]``; no more, as in the paper."""
    if config.exploration_repeat is None:
        return None
    weights = jnp.arange(1.0, 10_001.0) ** -config.exploration_repeat
    return jnp.cumsum(weights) / jnp.sum(weights)


def _num_actions(space: Any) -> int:
    if not hasattr(space, "n"):
        raise InputError(
            f"DQN takes discrete actions, but the action space is {space!r}; PPO, A2C, A3C, "
            "actor-critic and REINFORCE take that."
        )
    return int(space.n)


def _steps(trajectory: Trajectory) -> Steps:
    step = trajectory.step
    return Steps(
        trajectory.observation,
        trajectory.action,
        step.reward,
        step.terminated,
        step.truncated,
        step.discount,
        step.next_observation,
    )


def _last(steps: Steps, n: int) -> Steps | None:
    """The last `n` rows; None if n is 0."""
    return jax.tree.map(lambda x: x[-n:], steps) if n else None


def _pick(x: jax.Array, action: jax.Array) -> jax.Array:
    """What `x` ``[B, actions, ...]`` has for each row's action ``[B]``."""
    # The gradient of this has no scatter, as that of an index would.
    chosen = jax.nn.one_hot(action, x.shape[1], dtype=bool)
    chosen = jnp.expand_dims(chosen, tuple(range(2, x.ndim)))
    return jnp.sum(jnp.where(chosen, x, 0.0), axis=1)


def _over(atoms: jax.Array, outputs: jax.Array) -> jax.Array:
    return jnp.broadcast_to(atoms, outputs.shape)


def check_config(config: Config) -> None:
    """Raises InputError, in one sentence, on a configuration that cannot work."""
    check(config)
    first = (_initial_rows(config) - config.n_step + 1) * config.num_envs
    for name, least in (
        ("batch_size", config.batch_size),
        ("n_step", config.n_step),
        ("num_envs * num_steps", config.num_envs * config.num_steps),
        ("learning_starts, in whole rows of num_envs,", first),
    ):
        if config.buffer_size < least:
            raise InputError(
                f"buffer_size is {config.buffer_size}, but must be at least {name} = {least}."
            )
    ends = config.v_min, config.v_max, config.epsilon_start, config.epsilon_end
    if any(isinstance(x, jax.core.Tracer) for x in ends):
        return
    if not np.all(np.less(config.v_min, config.v_max)):
        raise InputError(
            f"v_min is {config.v_min}, but must be below v_max, which is {config.v_max}."
        )
    if config.epsilon_schedule == "exponential" and not (
        np.all(np.greater(config.epsilon_start, 0)) and np.all(np.greater(config.epsilon_end, 0))
    ):
        raise InputError(
            f"epsilon goes from {config.epsilon_start} to {config.epsilon_end}, but an exponential "
            "schedule needs both above 0; a linear one takes 0."
        )


def _initial_rows(config: Config) -> int:
    """Random steps of each environment in `init`; at least one n-step transition."""
    return max(-(-config.learning_starts // config.num_envs), config.n_step)
