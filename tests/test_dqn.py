"""DQN's parts end to end: what replay holds, what is learnt from it, and every schedule."""

import dataclasses
import functools
import math

import flax.linen as nn
import gymnax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnax.environments import spaces
from scipy import stats

from rlax_lab import dqn, replay
from rlax_lab.types import Counter
from tests import probes, reference

KEY = jax.random.key(0)
GAMMA = 0.9
ACTIONS = 3
# Chance of a false alarm of one test of draws; keys are fixed, so it is taken once.
ALPHA = 1e-4


# Episodes that tell everything about themselves. The formulas hold for NumPy and JAX alike.


def lasts(number):
    """Steps until the episode terminates: 1 to 7."""
    return 1 + number % 7


def limit(number):
    """Steps until it is truncated, if it has not terminated: 2 to 8."""
    return 2 + number // 7 % 7


def paid(number, step):
    """The reward of the step taken `step` steps after the reset."""
    return 0.5 * step - number // 49 % 5


def forbidden(number, step):
    """The one action that is ruled out."""
    return (number + step) % ACTIONS


class Episodes(probes.Probe):
    """Shows a number drawn at the reset, the steps since then and the last action, as integers.

    The number says when the episode terminates or is truncated, and what it pays.
    """

    def draw(self, key):
        return {"number": jax.random.randint(key, (), 0, 2**30), "last": jnp.int32(-1)}

    def show(self, state):
        number, step = state.signal["number"], state.time
        mask = jnp.arange(ACTIONS) != forbidden(number, step)
        return {**state.signal, "step": step, "action_mask": mask}

    def step_env(self, key, state, action, params):
        number = state.signal["number"]
        reward = paid(number, state.time.astype(jnp.float32))
        state = probes.State(time=state.time + 1, signal={"number": number, "last": action})
        return self.show(state), state, reward, state.time >= lasts(number), {}

    def is_truncated(self, state, params):
        return state.time >= limit(state.signal["number"])

    def action_space(self, params=None):
        return spaces.Discrete(ACTIONS)


class Table(nn.Module):
    """The same values, or `atoms` of them, for all observations of one step; all 0 at first."""

    num_actions: int
    atoms: int | None = None

    @nn.compact
    def __call__(self, observation):
        shape = (9, self.num_actions, *([] if self.atoms is None else [self.atoms]))
        return self.param("table", nn.initializers.zeros, shape)[observation["step"]]


def made(config):
    """The learner on `Episodes` with a `Table`."""
    atoms = None if config.distributional == "none" else config.num_atoms
    return dqn.make(Episodes(), config, network=functools.partial(Table, atoms=atoms))


@functools.cache
def started(config):
    """The learner's first state."""
    return jax.jit(made(config).init)(KEY)


def with_table(state, table):
    return state._replace(params=state.params._replace(network={"params": {"table": table}}))


def table_of(network):
    return np.asarray(network["params"]["table"])


# A configuration in which little happens that a test did not ask for.
QUIET = dqn.Config(
    total_steps=10**6,
    num_gradient_steps=1,
    batch_size=1,
    learning_starts=1,
    anneal_learning_rate=False,
    gamma=GAMMA,
    loss="huber",
)

# --- Transitions ---


def run_of(number, step, n):
    """By the formulas: up to n steps' rewards, the discount of what follows, and their number."""
    total = 0.0
    for k in range(n):
        total += GAMMA**k * paid(number, step + k)
        if step + k + 1 == lasts(number):
            return total, 0.0, k + 1
        if step + k + 1 == limit(number):
            return total, GAMMA ** (k + 1), k + 1
    return total, GAMMA**n, n


def follows(before, action, after):
    """Whether observation `after` comes next after `action`: the next step, or a new episode."""
    taken = before["step"] + 1
    if taken == min(lasts(before["number"]), limit(before["number"])):
        return after["number"] != before["number"] and after["step"] == 0 and after["last"] == -1
    return (after["number"], after["step"], after["last"]) == (before["number"], taken, action)


def check_buffer(state, config):
    """Replay holds the newest transitions of a run, each of them once, in order and right."""
    n, envs, capacity = config.n_step, config.num_envs, config.buffer_size
    # The last n - 1 steps wait for what follows them.
    written = int(state.steps) - (n - 1) * envs
    size = min(written, capacity)
    assert (state.buffer.size, state.buffer.position) == (size, written % capacity)
    if state.priorities is not None:
        leaves = np.asarray(state.priorities.tree.nodes)[state.priorities.tree.width :]
        np.testing.assert_array_equal(leaves > 0, np.arange(len(leaves)) < size)
    items = jax.tree.map(np.asarray, state.buffer.items)
    recent = None if state.recent is None else jax.tree.map(np.asarray, state.recent)
    pending = state.env.observation if recent is None else recent.observation

    def at(tree, *index):
        return jax.tree.map(lambda x: np.asarray(x)[index], tree)

    ends = set()
    for count in range(written - size, written):
        item = at(items, count % capacity)
        start, final = item.observation, item.next_observation
        number, step = int(start["number"]), int(start["step"])
        reward, discount, k = run_of(number, step, n)
        np.testing.assert_allclose(item.reward, reward, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(item.discount, discount, rtol=1e-6)
        assert (final["number"], final["step"]) == (number, step + k)
        assert item.action != forbidden(number, step)
        for shown in (start, final):
            allowed = np.arange(ACTIONS) != forbidden(shown["number"], shown["step"])
            np.testing.assert_array_equal(shown["action_mask"], allowed)
        if count < envs:
            assert (step, start["last"]) == (0, -1)
        if count + envs < written:
            after = at(items.observation, (count + envs) % capacity)
        else:
            after = at(pending, *([count % envs] if recent is None else [0, count % envs]))
        assert follows(start, item.action, after)
        if count + (k - 1) * envs < written:
            assert final["last"] == items.action[(count + (k - 1) * envs) % capacity]
        ends.add((k, "terminated" if discount == 0 else "truncated" if k < n else "goes on"))
    return ends


SHAPES = {
    "one environment": {"num_envs": 1, "num_steps": 5, "n_step": 1, "buffer_size": 64},
    "not full yet": {"num_envs": 3, "num_steps": 4, "n_step": 3, "buffer_size": 200},
    # More rows wait than an update has, and no block of rows fits the end of the buffer.
    "n above num_steps": {
        "num_envs": 4,
        "num_steps": 2,
        "n_step": 5,
        "buffer_size": 37,
        "learning_starts": 31,
        "num_gradient_steps": 3,
        "prioritized": True,
    },
}


@pytest.mark.parametrize("name", SHAPES)
def test_every_step_becomes_a_transition(name):
    """In replay every step starts one transition, in order, with the right rewards and follower.

    It never reaches into another episode; a truncated episode keeps the discount of the steps taken
    and its final observation, a terminated one has discount zero.
    """
    config = dataclasses.replace(QUIET, **SHAPES[name])
    learner, state, ends = made(config), started(config), set()
    update = jax.jit(learner.update)
    rows = max(math.ceil(config.learning_starts / config.num_envs), config.n_step)
    assert int(state.steps) == learner.initial_steps == rows * config.num_envs
    check_buffer(state, config)
    for i in range(1, 13):
        state, sums = update(state)
        assert int(state.steps) == learner.steps_after(i)
        # The ratio of gradient steps to environment steps.
        assert sums["gradient_steps"] == config.num_gradient_steps
        assert state.gradient_steps == i * config.num_gradient_steps
        assert learner.steps_per_update == config.num_envs * config.num_steps
        ends |= check_buffer(state, config)
    # Of one step it cannot be told from the discount whether it was truncated.
    kinds = {"terminated", "goes on", "truncated"}
    assert {kind for _, kind in ends} == kinds - ({"truncated"} if config.n_step == 1 else set())
    assert {k for k, _ in ends} == set(range(1, config.n_step + 1))


# --- What replay takes ---


class Pixels(probes.ConstantReward):
    """Shows an image of bytes."""

    def show(self, state):
        return jnp.zeros((10, 10, 4), jnp.uint8)


def size(tree):
    return sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(tree))


@pytest.mark.parametrize("prioritized", [False, True])
@pytest.mark.parametrize(
    ("env", "bytes_shown", "capacity", "width"),
    [
        (gymnax.make("CartPole-v1")[0], 4 * 4, 10_000, 16_384),
        (Pixels(), 10 * 10 * 4, 1024, 1024),
        (Pixels(), 10 * 10 * 4, 1025, 2048),
    ],
)
def test_bytes_of_a_transition(env, bytes_shown, capacity, width, prioritized):
    """Two observations in their own type, an action, a reward and a discount; a tree over them."""
    config = dqn.Config(buffer_size=capacity, prioritized=prioritized, n_step=3)
    state = jax.eval_shape(dqn.make(env, config).init, KEY)
    assert size(state.buffer.items) == capacity * (2 * bytes_shown + 4 + 4 + 4)
    assert size(state.buffer) == size(state.buffer.items) + 4 + 4
    assert state.buffer.items.action.dtype == jnp.int32
    assert size(state.priorities) == (2 * width * 4 + 4 if prioritized else 0)
    # Two steps of each environment wait for their n-step returns, with both kinds of end.
    assert size(state.recent) == 2 * config.num_envs * (2 * bytes_shown + 4 + 4 + 4 + 1 + 1)


# --- What is learnt ---

B = 24
VARIANTS = {
    "huber": {"prioritized": True},
    "double": {"prioritized": True, "double": True, "loss": "squared", "priority_exponent": 1.0},
    "categorical": {"prioritized": True, "double": True, "distributional": "categorical"},
    "quantile": {"distributional": "quantile"},
}
LEARNING = dataclasses.replace(
    QUIET,
    total_steps=100,
    num_envs=4,
    num_steps=2,
    n_step=3,
    batch_size=B,
    buffer_size=B,
    learning_starts=B,  # 16 transitions, as the last two rows have no third yet
    learning_rate=0.1,
    anneal_learning_rate=True,
    adam_eps=0.01,
    max_grad_norm=None,
    target_period=2,
    num_atoms=5,
    v_min=-5.0,
    v_max=4.0,
    prioritized=False,
    double=False,
    priority_exponent=0.5,
    importance_exponent=0.4,
    distributional="none",
)


def values(outputs, config):
    """The value of each action, from a number or a distribution of it ``[3, ...]``."""
    if config.distributional == "none":
        return outputs
    if config.distributional == "quantile":
        return [sum(x) / 5 for x in outputs]
    atoms = np.linspace(config.v_min, config.v_max, 5)
    return [sum(atoms * reference.probabilities(x)) for x in outputs]


def best_action(table, observation, config):
    found = values(np.float64(table[observation["step"]]), config)
    allowed = [a for a in range(ACTIONS) if observation["action_mask"][a]]
    return max(allowed, key=lambda a: found[a])


def loss_and_surprise(table, now, target, item, config):
    """The loss of one transition and its priority; `now` is the table that picks, as constant."""
    chosen = table[item.observation["step"]][item.action]
    picks = now if config.double else target
    best = best_action(picks, item.next_observation, config)
    following = target[item.next_observation["step"]][best]
    if config.distributional == "categorical":
        goal = reference.project_distribution(
            np.linspace(config.v_min, config.v_max, 5),
            reference.probabilities(following),
            float(item.reward),
            float(item.discount),
        )
        p, loss, divergence = reference.probabilities(chosen), 0.0, 0.0
        for g, q in zip(goal, p, strict=True):
            loss -= g * math.log(q)
            divergence += g * math.log(g / q) if g > 0 else 0.0
        return loss, divergence
    goal = item.reward + item.discount * following
    if config.distributional == "quantile":
        return reference.quantile_huber(chosen, goal, 1.0), abs(sum(goal) - sum(chosen)) / 5
    error = goal - chosen
    return reference.huber(error, 1.0) if config.loss == "huber" else error**2 / 2, abs(error)


@pytest.mark.parametrize("name", VARIANTS)
def test_a_gradient_step_is_what_the_papers_say(name):
    """One step on all of replay: losses, weights, gradient, priorities and new weights by hand.

    Draws are replaced by every transition once; which are drawn how often is tested with replay.
    """
    config = dataclasses.replace(LEARNING, **VARIANTS[name])
    learner, rng = made(config), np.random.default_rng(0)
    blank = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(learner.init, KEY))
    now, target = 2 * rng.normal(size=(2, *table_of(blank.target).shape)).astype(np.float32)
    start, elapsed = started(LEARNING), 40  # the same for every variant
    state = with_table(blank, now)._replace(
        target={"params": {"table": target}},
        env=start.env,
        recent=start.recent,
        buffer=start.buffer,
        key=KEY,
        steps=Counter.zero().add(elapsed),
    )
    leaves = np.ones(B)
    if config.prioritized:
        # Transitions of before have these priorities, and new ones the largest, to the power alpha.
        alpha, largest = config.priority_exponent, 2.7
        leaves = np.array([*rng.uniform(0.1, 2, 16), *[largest**alpha] * 8])
        tree = state.priorities.tree.set(jnp.arange(16), jnp.float32(leaves[:16]))
        state = state._replace(priorities=dqn.Priorities(tree, jnp.float32(largest)))

    def every_leaf(tree, key, n):
        return jnp.arange(n), tree.nodes[tree.width :][:n]

    def every_row(buffer, key, shape):
        return jnp.broadcast_to(jnp.arange(shape[-1]), shape)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(replay.SumTree, "draw", every_leaf)
        patch.setattr(replay.Buffer, "draw", every_row)
        after, sums = jax.jit(learner.update)(state)

    items = jax.tree.map(np.asarray, after.buffer.items)
    items = [jax.tree.map(lambda x, i=i: x[i], items) for i in range(B)]
    assert {item.discount == 0 for item in items} == {False, True}
    left = 1 - elapsed / learner.total_steps
    beta = 1 - left * (1 - config.importance_exponent)
    weights = reference.importance_weights(leaves / leaves.sum(), B, beta)

    def total(table):
        table = np.reshape(table, now.shape)
        losses = [loss_and_surprise(table, now, target, item, config)[0] for item in items]
        return sum(weights * losses) / B

    gradient = reference.gradient(total, np.ravel(now)).reshape(now.shape)
    np.testing.assert_allclose(sums["loss"], total(now), rtol=1e-4)
    np.testing.assert_allclose(sums["gradient_norm"], np.sqrt(np.sum(gradient**2)), rtol=1e-3)
    seen = [values(now[item.observation["step"]], config)[item.action] for item in items]
    np.testing.assert_allclose(sums["value"], np.mean(seen), rtol=1e-4)
    # Adam's first direction, at what is left of the learning rate.
    moved = now - 0.1 * left * gradient / (np.abs(gradient) + config.adam_eps)
    np.testing.assert_allclose(table_of(after.params.network), moved, rtol=1e-3, atol=1e-4)
    np.testing.assert_array_equal(table_of(after.target), target)

    if config.prioritized:
        surprises = np.array([loss_and_surprise(now, now, target, x, config)[1] for x in items])
        ours = np.asarray(after.priorities.tree.nodes)[after.priorities.tree.width :][:B]
        np.testing.assert_allclose(ours, (surprises + 1e-6) ** alpha, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(
            after.priorities.largest, max(largest, np.max(surprises)), rtol=1e-4
        )
        # Which network picks the next action matters here.
        other = dataclasses.replace(config, double=not config.double)
        others = np.array([loss_and_surprise(now, now, target, x, other)[1] for x in items])
        assert np.sum(np.abs(others - surprises) > 0.1) >= 3


# --- The target network ---


@pytest.mark.parametrize(("period", "tau"), [(3, 1.0), (2, 0.25)])
def test_the_target_network(period, tau):
    """Every so many gradient steps it goes the part tau of the way to the network: all of it at 1.

    In between it does not change a bit.
    """
    config = dataclasses.replace(QUIET, num_envs=2, num_steps=1, learning_rate=0.1)
    state = started(config)  # the same for every period
    config = dataclasses.replace(config, target_period=period, tau=tau)
    update = jax.jit(made(config).update)
    rng = np.random.default_rng(0)
    now, target = rng.normal(size=(2, *table_of(state.target).shape)).astype(np.float32)
    np.testing.assert_array_equal(table_of(state.target), table_of(state.params.network))
    state = with_table(state, now)._replace(target={"params": {"table": target}})
    for count in range(1, 8):
        state, _ = update(state)
        before, now = now, table_of(state.params.network)
        assert np.any(now != before)
        if count % period == 0:
            target = (1 - tau) * np.float64(target) + tau * np.float64(now)
            np.testing.assert_allclose(table_of(state.target), target, rtol=1e-6, atol=1e-7)
            target = table_of(state.target)
            assert tau < 1 or np.array_equal(target, now)
        np.testing.assert_array_equal(table_of(state.target), target)


# --- Exploration ---

DRAWS = 4096
EXPLORING = dataclasses.replace(
    QUIET,
    num_envs=DRAWS // 8,
    num_steps=8,
    buffer_size=DRAWS,
    learning_starts=DRAWS,
    learning_rate=1e-30,
    epsilon_start=0.8,
    epsilon_end=0.05,
    epsilon_fraction=0.5,
)


def other_than_best(state):
    """How many of the newest steps were not the best allowed action; action 2 is best, then 1."""
    items = jax.tree.map(np.asarray, state.buffer.items)
    best = np.where(items.observation["action_mask"][:, 2], 2, 1)
    return int(np.sum(items.action != best))


@pytest.mark.parametrize("schedule", ["linear", "exponential"])
def test_epsilon_schedules(schedule):
    """Random actions before learning, then epsilon by equal steps or factors, then the last one.

    Of three actions one is ruled out, so that half of the random ones are not the best.
    """
    config = dataclasses.replace(EXPLORING, epsilon_schedule=schedule)
    learner, state = made(config), started(EXPLORING)  # the same for both
    update = jax.jit(learner.update)

    def check(count, epsilon):
        assert stats.binomtest(count, DRAWS, epsilon / 2).pvalue > ALPHA
        for other in (epsilon + 0.1, epsilon - 0.1):
            assert not 0 <= other <= 1 or stats.binomtest(count, DRAWS, other / 2).pvalue < ALPHA

    check(other_than_best(state), 1.0)
    state = with_table(state, jnp.broadcast_to(jnp.arange(3.0), (9, 3)))

    def taken_at(part):
        steps = Counter.zero().add(int(part * learner.total_steps))
        return other_than_best(update(state._replace(steps=steps))[0])

    quarter, half = {
        "linear": (0.8 - 0.75 / 4, 0.8 - 0.75 / 2),
        "exponential": (0.8 / 2, 0.8 / 4),  # a factor of 2^4 in all
    }[schedule]
    for part, epsilon in ((0, 0.8), (0.125, quarter), (0.25, half), (0.5, 0.05), (1, 0.05)):
        check(taken_at(part), epsilon)
    # The learner's own policy: the best action, or with a key the last epsilon's.
    observation, params = state.buffer.items.observation, state.params
    greedy = state.buffer.items._replace(action=learner.act(params, observation))
    drawn = state.buffer.items._replace(action=learner.act(params, observation, KEY))
    greedy, drawn = (
        other_than_best(state._replace(buffer=state.buffer._replace(items=items)))
        for items in (greedy, drawn)
    )
    assert greedy == 0
    check(drawn, 0.05)


class ManyActions(probes.ConstantReward):
    """So many that two exploring actions in a row are hardly ever the same."""

    def action_space(self, params=None):
        return spaces.Discrete(1000)


def test_exploring_actions_are_repeated():
    """Their lengths are zeta-distributed, also across updates, and epsilon says how often one
    starts."""
    epsilon, exponent, best = 0.3, 2.0, 7
    config = dataclasses.replace(
        QUIET,
        num_envs=64,
        num_steps=8,
        buffer_size=64 * 400,
        learning_starts=64 * 400,
        learning_rate=1e-9,
        epsilon_start=epsilon,
        epsilon_end=epsilon,
        exploration_repeat=exponent,
    )
    learner = dqn.make(ManyActions(), config, network=lambda n: Fixed(n, best))
    state = jax.jit(learner.init)(KEY)
    random = np.asarray(state.buffer.items.action).reshape(400, 64)
    state, _ = jax.jit(lambda s: jax.lax.scan(lambda s, _: learner.update(s), s, length=50))(state)
    both = np.asarray(state.buffer.items.action).reshape(400, 64)
    for actions, share in ((random, 1.0), (both, epsilon)):
        lengths, greedy = [], 0
        # What is under way at both ends is not known in full.
        for column in actions.T:
            cuts = np.flatnonzero(np.diff(column)) + 1
            for run in np.split(column, cuts)[1:-1]:
                if run[0] == best:
                    greedy += len(run)
                else:
                    lengths.append(len(run))
        if share < 1:
            assert stats.binomtest(len(lengths), len(lengths) + greedy, share).pvalue > ALPHA
        else:  # one in a thousand happens to be the best
            assert greedy < 0.02 * len(lengths)
        counts = np.bincount(np.minimum(lengths, 12), minlength=13)[1:]

        def p_value(exponent, counts=counts):
            p = np.arange(1.0, 10_001.0) ** -exponent
            p = np.append(p[:11], p[11:].sum()) / p.sum()
            return stats.chisquare(counts, counts.sum() * p).pvalue

        assert p_value(exponent) > ALPHA
        assert p_value(exponent + 0.4) < ALPHA > p_value(exponent - 0.3)


class Fixed(nn.Module):
    """Values that make one action the best."""

    num_actions: int
    best: int

    @nn.compact
    def __call__(self, observation):
        one_hot = jax.nn.one_hot(self.best, self.num_actions)
        values = self.param("values", lambda _: one_hot)
        return jnp.broadcast_to(values, (len(jax.tree.leaves(observation)[0]), self.num_actions))
