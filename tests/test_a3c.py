"""A3C against A2C, against a simulation of its clock, and against plain Python."""

import dataclasses
import functools
import heapq
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlax_lab import a2c, a3c, checkpoint
from tests import probes

DELAYS = ("equal", "exponential", "lognormal", "uneven")
SPREAD = 4.0
CONFIG = a3c.Config(
    torso="mlp",
    hidden_sizes=(8,),
    activation="tanh",
    normalize_observations=True,
    shared_torso=False,
    scale_rewards=True,
    total_steps=2**16,
    num_envs=8,
    num_steps=2,
    optimizer="rmsprop",
    learning_rate=1e-2,
    anneal_learning_rate=True,
    rmsprop_decay=0.9,
    rmsprop_eps=1e-5,
    adam_eps=1e-5,
    max_grad_norm=0.5,
    gamma=0.9,
    gae_lambda=0.95,
    value_coef=0.5,
    entropy_coef=0.01,
    normalize_advantages=False,
    num_workers=4,
    delays="exponential",
    delay_spread=SPREAD,
)
WORKERS = CONFIG.num_workers


class Endless(probes.ObservationActionReward):
    """Episodes without an end, so that their length counts the steps of a worker."""

    steps = probes.NEVER

    @property
    def default_params(self):
        return probes.Params(max_steps_in_episode=probes.NEVER)


def named(tree):
    """The arrays of a tree on the host, by name."""
    leaves = jax.tree_util.tree_leaves_with_path(checkpoint.to_numpy(tree))
    return {jax.tree_util.keystr(path): x for path, x in leaves}


# One worker


def after_eight_updates(learner):
    """The state and the metrics ``[8]`` after as many updates."""
    scan = lambda key: jax.lax.scan(  # noqa: E731
        lambda state, _: learner.update(state), learner.init(key), length=8
    )
    return jax.jit(scan)(jax.random.key(5))


@functools.cache
def synchronous(optimizer):
    names = [field.name for field in dataclasses.fields(a2c.Config)]
    config = a2c.Config(**{name: getattr(CONFIG, name) for name in names})
    config = dataclasses.replace(config, optimizer=optimizer)
    return after_eight_updates(a2c.make(probes.TimeLimit(), config))


@pytest.mark.parametrize(
    ("delays", "optimizer"), list(zip(DELAYS, ("rmsprop", "adam", "rmsprop", "adam"), strict=True))
)
def test_one_worker_is_a2c_to_the_last_bit(delays, optimizer):
    config = dataclasses.replace(CONFIG, num_workers=1, delays=delays, optimizer=optimizer)
    state, metrics = after_eight_updates(a3c.make(probes.TimeLimit(), config))
    expected, expected_metrics = synchronous(optimizer)
    assert np.all(metrics.pop("staleness") == 0)
    # The only worker's copy is the global parameters, and its environments are all there are.
    own = jax.tree.map(lambda x: x[0], state.workers)
    both = [
        (metrics, expected_metrics),
        (state.params, expected.params),
        (own.params, expected.params),
        (state.optimizer, expected.optimizer),
        (own.actors, expected.actors),
        ((state.key, state.steps), (expected.key, expected.steps)),
    ]
    for ours, theirs in both:
        ours, theirs = named(ours), named(theirs)
        assert ours.keys() == theirs.keys()
        for name in ours:
            np.testing.assert_array_equal(ours[name], theirs[name], name)
    assert expected.params.moments.total == 8 * 8 * 2  # something happened


# Several workers

UPDATES = 300


@functools.cache
def program(delays):
    """A jitted ``(key, updates) -> state, staleness [UPDATES], steps by then [UPDATES, W]``."""
    learner = a3c.make(Endless(), dataclasses.replace(CONFIG, delays=delays))

    def run(key, updates):
        def body(i, carry):
            state, staleness, steps = carry
            state, metrics = learner.update(state)
            lengths = state.workers.actors.env.episode_length[:, 0]
            return state, staleness.at[i].set(metrics["staleness"]), steps.at[i].set(lengths)

        empty = jnp.zeros(UPDATES), jnp.zeros((UPDATES, WORKERS), jnp.int32)
        return jax.lax.fori_loop(0, updates, body, (learner.init(key), *empty))

    return jax.jit(run)


@functools.cache
def long_run(delays, seed=0):
    """Staleness and landings of each worker, per update, as the learner has them."""
    _, staleness, steps = program(delays)(jax.random.key(seed), UPDATES)
    landings = np.diff(np.asarray(steps), axis=0, prepend=0) / CONFIG.num_steps
    return np.asarray(staleness), landings


@functools.cache
def drawn(delays, seed=0):
    """How long each rollout takes: the first one of each worker, then that after each landing.

    Only the keys are the learner's, so that both see the same delays.
    """
    own = lambda key: jax.random.fold_in(key, jnp.uint32(2**31))  # noqa: E731

    def one(key):
        if delays == "lognormal":
            return SPREAD ** jax.random.normal(key)
        return jax.random.exponential(key)

    @jax.jit
    def draws(key):
        def landing(key, _):
            key, work = jax.random.split(key)
            return key, one(own(work))

        first = jax.vmap(one)(jax.random.split(own(key), WORKERS))
        return first, jax.lax.scan(landing, key, length=UPDATES * WORKERS)[1]

    key = jax.random.split(jax.random.key(seed), 3)[0]  # what is left when the run has begun
    first, later = map(np.asarray, draws(key))
    if delays == "equal":
        return np.ones_like(first), lambda worker, i: 1.0
    if delays == "uneven":
        fixed = [SPREAD ** (worker / (WORKERS - 1)) for worker in range(WORKERS)]
        return np.array(fixed), lambda worker, i: fixed[worker]
    return first, lambda worker, i: later[i]


@functools.cache
def simulated(delays, seed=0):
    """Who lands, and how stale, one by one: a queue of events in absolute time."""
    first, later = drawn(delays, seed)
    # At the start the workers are spread over a rollout.
    queue = [((w + 1) / WORKERS * float(first[w]), w) for w in range(WORKERS)]
    heapq.heapify(queue)
    copied = [0] * WORKERS
    order, staleness = [], []
    for i in range(UPDATES * WORKERS):
        now, worker = heapq.heappop(queue)
        order.append(worker)
        staleness.append(i - copied[worker])
        copied[worker] = i + 1
        heapq.heappush(queue, (now + float(later(worker, i)), worker))
    return np.array(order), np.array(staleness)


@pytest.mark.parametrize("delays", DELAYS)
def test_order_and_staleness_are_those_of_a_simulated_clock(delays):
    order, stale = simulated(delays)
    staleness, landings = long_run(delays)
    counts = np.stack([np.bincount(x, minlength=WORKERS) for x in order.reshape(-1, WORKERS)])
    np.testing.assert_array_equal(landings, counts)
    np.testing.assert_array_equal(staleness, stale.reshape(-1, WORKERS).sum(axis=1))
    # Whatever the order, the others land once each in the mean.
    assert stale[WORKERS:].mean() == pytest.approx(WORKERS - 1, rel=0.03)


def test_equal_workers_land_in_turn():
    order, _ = simulated("equal")
    np.testing.assert_array_equal(order, np.tile(np.arange(WORKERS), UPDATES))
    staleness, landings = long_run("equal")
    assert staleness[0] == sum(range(WORKERS))
    assert np.all(staleness[1:] == WORKERS * (WORKERS - 1))
    assert np.all(landings == 1)


def test_uneven_workers_land_as_often_as_they_are_fast():
    _, landings = long_run("uneven")
    rates = SPREAD ** -(np.arange(WORKERS) / (WORKERS - 1))
    expected = UPDATES * WORKERS * rates / rates.sum()
    np.testing.assert_allclose(landings.sum(axis=0), expected, atol=2)


def test_with_exponential_delays_any_worker_is_next_whoever_was_last():
    """Pairs of neighbours are all equally likely: chi-square, 15 degrees of freedom."""
    order, _ = simulated("exponential")
    pairs = order.reshape(-1, 2)
    counts = np.bincount(pairs[:, 0] * WORKERS + pairs[:, 1], minlength=WORKERS**2)
    expected = len(pairs) / WORKERS**2
    assert np.sum((counts - expected) ** 2 / expected) < 37.7  # one in a thousand is above
    # Which those are not whose delays vary less, or more.
    for delays in ("equal", "lognormal"):
        order, _ = simulated(delays)
        again = np.mean(order[1:] == order[:-1])
        assert abs(again - 1 / WORKERS) > 0.05


def test_the_same_key_gives_the_same_run_and_another_another_order():
    run = program("exponential")
    first, again, other = (run(jax.random.key(seed), 20)[0] for seed in (3, 3, 4))
    first, again, other = map(named, (first, again, other))
    for name in first:
        np.testing.assert_array_equal(first[name], again[name], name)
    assert np.any(first[".workers.copied_at"] != other[".workers.copied_at"])
    orders = [simulated("exponential", seed)[0][:80] for seed in (3, 4)]
    assert np.mean(orders[0] != orders[1]) > 0.5


# Plain Python


class PlainWorker:
    """A worker of its own: parameters, environments, and when it lands."""

    def __init__(self, params, actors, lands_at):
        self.params, self.actors, self.lands_at = params, actors, lands_at
        self.optimizer = None


@functools.cache
def parts():
    made = a2c.make_parts(Endless(), CONFIG)
    return made, jax.jit(made.work), jax.jit(made.land)


def plain(seed, landings, gradient_at="copy", statistics="shared"):
    """The global parameters and RMSProp statistics after some landings.

    Args:
      gradient_at: "copy", the worker's own, or, wrongly, "global".
      statistics: "shared", or, wrongly, each worker its "own".
    """
    made, work, land = parts()
    start = made.start(jax.random.key(seed))
    params, optimizer, key, steps = start.params, start.optimizer, start.key, start.steps
    first, later = drawn("exponential", seed)
    size = CONFIG.num_envs // WORKERS
    workers = []
    for w in range(WORKERS):
        rows = slice(w * size, (w + 1) * size)
        envs = jax.tree.map(lambda x, rows=rows: x[rows], start.actors.env)
        workers.append(PlainWorker(params, made.gather(envs), (w + 1) / WORKERS * float(first[w])))
    for i in range(landings):
        worker = min(workers, key=lambda worker: worker.lands_at)
        key, work_key = jax.random.split(key)
        acting = worker.params if gradient_at == "copy" else params
        worker.actors, finding = work(acting, worker.actors, work_key)
        before = optimizer if statistics == "shared" else worker.optimizer or start.optimizer
        params, worker.optimizer = land(params, before, finding, steps)
        optimizer = worker.optimizer
        steps = steps.add(size * CONFIG.num_steps)
        worker.params = params
        worker.lands_at += float(later(None, i))
    return named({"params": params, "optimizer": optimizer, "steps": steps})


def furthest(ours, theirs):
    assert ours.keys() == theirs.keys()
    return max(np.abs(ours[name] - theirs[name]).max() for name in ours if "steps" not in name)


def test_the_same_as_plain_python_with_one_object_per_worker():
    """Gradients at each worker's stale copy, applied to the global parameters, copied back."""
    seed, updates = 7, 8
    state, *_ = program("exponential")(jax.random.key(seed), updates)
    ours = named({"params": state.params, "optimizer": state.optimizer, "steps": state.steps})
    right = plain(seed, updates * WORKERS)
    assert furthest(ours, right) < 1e-5
    assert ours["['steps'].low"] == right["['steps'].low"]
    assert furthest(ours, plain(seed, updates * WORKERS, gradient_at="global")) > 1e-2
    assert furthest(ours, plain(seed, updates * WORKERS, statistics="own")) > 1e-2


# Memory


def size(tree):
    return sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(tree))


@pytest.mark.parametrize("scale_rewards", [False, True])
@pytest.mark.parametrize("workers", [1, 4, 16])
def test_memory_of_a_worker(workers, scale_rewards):
    """One copy of the parameters, its environments, and two numbers."""
    config = dataclasses.replace(
        CONFIG, num_envs=32, num_workers=workers, scale_rewards=scale_rewards
    )
    env = Endless()
    learner = a3c.make(env, config)
    key = jax.eval_shape(lambda: jax.random.key(0))
    state = jax.eval_shape(learner.init, key)
    # One environment: its state and observation, and its episode's return and length.
    each = size(jax.eval_shape(env.reset_env, key, env.default_params)) + 4 + 4
    envs = 32 // workers
    expected = size(state.params) + envs * each + 4 + 4  # when it copied, when it lands
    if scale_rewards:  # three moments, and a running return per environment
        expected += 12 + 4 * envs
    assert size(state.workers) == workers * expected
    # Two layers of eight with biases, two heads on them, and moments of one number.
    weights = 2 * (1 * 8 + 8) + (8 * 2 + 2) + (8 * 1 + 1)
    assert size(state.params) == 4 * (weights + 3)
