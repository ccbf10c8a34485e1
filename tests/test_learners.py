"""What holds for every learner: known answers, and what its pure functions promise."""

import dataclasses
import functools
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct

from rlax_lab import a2c, a3c, actor_critic, checkpoint, dqn, networks, ppo, reinforce, train
from rlax_lab.errors import InputError, NonFiniteError
from rlax_lab.types import Counter
from tests import probes

GAMMA = 0.9
MODULES = {
    "reinforce": reinforce,
    "actor_critic": actor_critic,
    "a2c": a2c,
    "a3c": a3c,
    "dqn": dqn,
    "ppo": ppo,
}
ALL = list(MODULES)
POLICIES = [name for name in ALL if name != "dqn"]

COMMON = {
    "torso": "mlp",
    "hidden_sizes": (16,),
    "activation": "tanh",
    "normalize_observations": False,
    "total_steps": 2**14,
    "num_envs": 8,
    "num_steps": 8,
    "anneal_learning_rate": True,
    "adam_eps": 1e-5,
    "max_grad_norm": 10.0,
    "gamma": GAMMA,
}
POLICY = {
    "shared_torso": False,
    "squash": "clip",
    "log_std_init": 0.0,
    "scale_rewards": False,
    "entropy_coef": 0.0,
}
ADVANTAGE = {
    "optimizer": "rmsprop",
    "rmsprop_decay": 0.99,
    "rmsprop_eps": 1e-5,
    "learning_rate": 1e-2,
    "gae_lambda": 0.95,
    "value_coef": 0.5,
    "normalize_advantages": False,
}
VARIANT = {
    "loss": "huber",
    "double": False,
    "dueling": False,
    "n_step": 1,
    "prioritized": False,
    "distributional": "none",
}
SETTINGS = {
    "reinforce": POLICY
    | {"learning_rate": 1e-2, "baseline": True, "normalize_returns": True, "value_coef": 0.5},
    "actor_critic": POLICY | {"actor_learning_rate": 1e-2, "critic_learning_rate": 1e-2},
    "a2c": POLICY | ADVANTAGE,
    "a3c": POLICY
    | ADVANTAGE
    | {"optimizer": "adam", "num_workers": 4, "delays": "exponential", "delay_spread": 4.0},
    "dqn": {
        "num_steps": 4,
        "total_steps": 2**13,
        "num_gradient_steps": 4,
        "batch_size": 32,
        "buffer_size": 512,
        "learning_starts": 250,
        "learning_rate": 1e-2,
        "target_period": 8,
        "tau": 1.0,
        "epsilon_start": 1.0,
        "epsilon_end": 0.1,
        "epsilon_schedule": "linear",
        "epsilon_fraction": 0.5,
        "priority_exponent": 0.5,
        "importance_exponent": 0.4,
        "num_atoms": 9,
        "v_min": -4.0,
        "v_max": 12.0,
    },
    "ppo": POLICY
    | {
        "num_epochs": 4,
        "num_minibatches": 2,
        "learning_rate": 1e-2,
        "gae_lambda": 0.95,
        "objective": "clip",
        "clip_range": 0.2,
        "kl_coef": 1.0,
        "anneal_clip_range": False,
        "target_kl": None,
        "value_clip_range": None,
        "value_coef": 0.5,
        "advantage_normalization": "minibatch",
    },
}


def configure(name, **options):
    """A small configuration that leaves nothing that matters to the defaults."""
    config = MODULES[name].Config(**(VARIANT if name == "dqn" else {}))
    return dataclasses.replace(config, **COMMON | SETTINGS[name] | options)


# Known answers


class Coin(probes.Probe):
    """One step, reward 1 for a quarter of all episodes, nothing shows which: V = 1/4.

    Tests that values are means, however replay draws.
    """

    def true_value(self, gamma):
        return np.full(1, 0.25)

    def draw(self, key):
        return jax.random.bernoulli(key, 0.25).astype(jnp.float32)

    def show(self, state):
        return jnp.zeros(1)

    def pay(self, state, action, params):
        return state.signal


class SignedTimeLimit(probes.ObservationReward):
    """Observation s = +-1, every reward s/4, truncated after two steps: V = s/4/(1 - gamma).

    Tests that a truncation bootstraps from its own final observation, and from no later one.
    """

    steps = probes.NEVER

    @property
    def default_params(self):
        return probes.Params(max_steps_in_episode=2)

    def true_value(self, gamma):
        return super().true_value(gamma) / 4 / (1 - gamma)

    def pay(self, state, action, params):
        return state.signal / 4


RUNGS = (
    probes.ConstantReward,
    probes.ObservationReward,
    Coin,
    probes.TwoStepDiscount,
    probes.StepsTakeTime,
    probes.ActionReward,
    probes.ObservationActionReward,
    probes.TimeLimit,
    SignedTimeLimit,
)
LANES = len(RUNGS)
TIME_LIMIT = RUNGS.index(probes.TimeLimit)


@struct.dataclass
class Rung(probes.Params):
    rung: Any = 0


class Ladder(probes.Probe):
    """All rungs in one environment, whose parameters say which: one program climbs them all."""

    def __init__(self, kind):
        super().__init__(kind)
        self.rungs = [cls(kind) for cls in RUNGS]

    @property
    def default_params(self):
        return Rung()

    @property
    def observations(self):
        """Those of all rungs, one after the other."""
        return np.concatenate([_wide(rung.observations) for rung in self.rungs])

    def rows(self, rung):
        """Where the observations of a rung are among them."""
        ends = np.cumsum([0, *(len(rung.observations) for rung in self.rungs)])
        return slice(ends[rung], ends[rung + 1])

    def reset_env(self, key, params):
        return self._pick(params, lambda rung: rung.reset_env(key, rung.default_params))

    def step_env(self, key, state, action, params):
        return self._pick(
            params, lambda rung: rung.step_env(key, state, action, rung.default_params)
        )

    def is_truncated(self, state, params):
        ends = [rung.is_truncated(state, rung.default_params) for rung in self.rungs]
        return jnp.stack(ends)[params.rung]

    def _pick(self, params, call):
        results = [(_wide(observation), *rest) for observation, *rest in map(call, self.rungs)]
        return jax.tree.map(lambda *xs: jnp.stack(xs)[params.rung], *results)

    def observation_space(self, params=None):
        return probes.spaces.Box(low=-1.0, high=1.0, shape=(2,))


def _wide(observation):
    """Observations with a second number, 0 where they have none."""
    widths = [(0, 0)] * (observation.ndim - 1) + [(0, 2 - observation.shape[-1])]
    return (jnp if isinstance(observation, jax.Array) else np).pad(observation, widths)


CASES = {name: (name, {}) for name in ALL} | {
    "reinforce without baseline": ("reinforce", {"baseline": False}),
    "double": (
        "dqn",
        {
            "double": True,
            "n_step": 3,
            "loss": "squared",
            "target_period": 1,
            "tau": 0.1,
            "epsilon_schedule": "exponential",
        },
    ),
    "prioritized": ("dqn", {"prioritized": True, "priority_exponent": 1.0, "dueling": True}),
    "quantile": ("dqn", {"distributional": "quantile"}),
    "rainbow": (
        "dqn",
        {name: getattr(dqn.RAINBOW, name) for name in VARIANT} | {"learning_rate": 1e-1},
    ),
}


@functools.cache
def climb(case, kind):
    """A jitted function that trains one learner per lane for some updates.

    It takes configurations, rungs and keys ``[LANES]`` and gives the network, and values and
    greedy actions for every observation of the ladder ``[LANES, K]``.
    """
    name, options = CASES[case]
    env = Ladder(kind)
    static = configure(name, **options)

    def one(config, rung, key, updates):
        learner = MODULES[name].make(env, config, env.default_params.replace(rung=rung))
        state = jax.lax.fori_loop(0, updates, lambda _, s: learner.update(s)[0], learner.init(key))
        see = jnp.asarray(env.observations)
        return (
            state.params.network,
            learner.value(state.params, see),
            learner.act(state.params, see),
        )

    updates = MODULES[name].make(env, static).num_updates
    return static, jax.jit(jax.vmap(one, in_axes=(0, 0, 0, None))), updates


def lanes(config, **values):
    """`config` in every lane, but for the fields in `values`, one value per lane each."""
    whole = jax.tree.map(lambda x: jnp.full(LANES, x, jnp.float32), config)
    return dataclasses.replace(whole, **{k: jnp.array(v, jnp.float32) for k, v in values.items()})


def finished(learner):
    """The parameters at the end of a run."""

    @jax.jit
    def run(key):
        step = lambda _, state: learner.update(state)[0]  # noqa: E731
        return jax.lax.fori_loop(0, learner.num_updates, step, learner.init(key)).params

    return run(jax.random.key(0))


def rungs_of(rung):
    """The same rung in every lane."""
    return jnp.full(LANES, rung, jnp.int32)


KEYS = jax.random.split(jax.random.key(0), LANES)


@functools.cache
def climbed(case, kind):
    config, run, updates = climb(case, kind)
    _, values, actions = run(lanes(config), jnp.arange(LANES), KEYS, updates)
    return jax.device_get((values, actions))


@pytest.mark.parametrize("rung", range(LANES), ids=[cls.__name__ for cls in RUNGS])
@pytest.mark.parametrize(
    ("case", "kind"),
    [
        *((case, "discrete") for case in CASES if "without" not in case),
        *((name, "continuous") for name in POLICIES),
        *((name, "multi_discrete") for name in POLICIES if name != "reinforce"),
        ("reinforce without baseline", "multi_discrete"),
    ],
)
def test_ladder_of_probes(case, kind, rung):
    """Values come out at their closed form, actions at the best one."""
    env = Ladder(kind)
    values, actions = climbed(case, kind)
    rows, probe = env.rows(rung), env.rungs[rung]
    want = probe.true_value(GAMMA)
    if case == "quantile" and RUNGS[rung] is Coin:
        # Within its threshold a quantile Huber loss is an expectile's: the mean over levels t of
        # the e with t (1 - e) / 4 = (1 - t) e 3/4 is the integral of t / (3 - 2t).
        want = np.full(1, 0.75 * np.log(3) - 0.5)
    # The value is that of the policy as it explores, a little under the best.
    acts = hasattr(probe, "best_action")
    noise = 0.15 if acts and kind == "continuous" else 0.0
    np.testing.assert_allclose(values[rung, rows], want, atol=0.05 + noise, rtol=0.02)
    if acts:
        best = jax.tree.leaves(probe.best_action(probe.observations))
        for got, want in zip(jax.tree.leaves(actions), best, strict=True):
            np.testing.assert_allclose(got[rung, rows], want, atol=0.15 if noise else 0)


@pytest.mark.parametrize("name", ["a2c", "a3c", "ppo"])
def test_time_limit_is_no_termination_for_any_trace(name):
    """Bootstraps from the final observation, whatever lambda is."""
    config, run, updates = climb(name, "discrete")
    config = lanes(config, gae_lambda=[0.0, 0.0, 0.5, 0.5, 0.8, 0.95, 0.95, 1.0, 1.0])
    _, values, _ = run(config, rungs_of(TIME_LIMIT), KEYS, updates)
    env = Ladder("discrete")
    want = np.tile(probes.TimeLimit().true_value(GAMMA), (LANES, 1))
    np.testing.assert_allclose(values[:, env.rows(TIME_LIMIT)], want, rtol=0.03)


class MaskedLater(probes.Probe):
    """Two steps; in the second action 1 pays 1, but every other episode rules it out.

    Only the mask shows it: V = gamma/2, then 1 or 0. Tests that nothing is bootstrapped from
    actions that are ruled out.
    """

    steps = 2
    observations = {  # noqa: RUF012
        "observation": np.array([[0.0], [1.0], [1.0]], np.float32),
        "action_mask": np.array([[True, True], [True, True], [True, False]]),
    }

    def true_value(self, gamma):
        return np.array([gamma / 2, 1.0, 0.0])

    def draw(self, key):
        return jax.random.bernoulli(key)

    def show(self, state):
        later = state.time > 0
        mask = jnp.stack([jnp.bool_(True), ~later | state.signal])
        return {"observation": later.astype(jnp.float32)[None], "action_mask": mask}

    def pay(self, state, action, params):
        return ((state.time > 0) & (action == 1)).astype(jnp.float32)


def test_dqn_bootstraps_from_allowed_actions_only():
    env = MaskedLater()
    learner = dqn.make(env, configure("dqn"))
    value = learner.value(finished(learner), jax.tree.map(jnp.asarray, env.observations))
    np.testing.assert_allclose(value, env.true_value(GAMMA), atol=0.05)


# Hyperparameters as arguments

ADVANTAGE_SWEEP = {
    "learning_rate": (1e-3, 1e-1),
    "gamma": (0.5, 0.99),
    "gae_lambda": (0.0, 1.0),
    "value_coef": (0.1, 1.0),
    "entropy_coef": (0.0, 0.1),
    "max_grad_norm": (0.1, 1.0),
}
SWEEPS = {
    "reinforce": {
        "learning_rate": (1e-3, 1e-1),
        "gamma": (0.5, 0.99),
        "value_coef": (0.1, 1.0),
        "entropy_coef": (0.0, 0.1),
        "adam_eps": (1e-8, 1e-2),
    },
    "actor_critic": {
        "actor_learning_rate": (1e-3, 1e-1),
        "critic_learning_rate": (1e-3, 1e-1),
        "gamma": (0.5, 0.99),
        "entropy_coef": (0.0, 0.1),
        "max_grad_norm": (0.1, 1.0),
    },
    "a2c": ADVANTAGE_SWEEP | {"rmsprop_decay": (0.9, 0.99), "rmsprop_eps": (1e-5, 1e-1)},
    "a3c": ADVANTAGE_SWEEP | {"adam_eps": (1e-8, 1e-2)},
    "dqn": {
        "learning_rate": (1e-3, 1e-1),
        "gamma": (0.5, 0.99),
        "tau": (0.1, 1.0),
        "epsilon_start": (0.5, 1.0),
        "epsilon_end": (0.0, 0.5),
        "epsilon_fraction": (0.01, 1.0),
    },
    "prioritized": {"priority_exponent": (0.0, 1.0), "importance_exponent": (0.0, 1.0)},
    "rainbow": {"v_min": (-9.0, -2.0), "v_max": (11.0, 20.0)},
    "ppo": ADVANTAGE_SWEEP | {"clip_range": (0.1, 0.3), "adam_eps": (1e-8, 1e-2)},
}


@pytest.mark.parametrize("case", SWEEPS)
def test_hyperparameters_sweep_without_compiling_again(case):
    """Each is an argument that has an effect, and a lane's result is its own."""
    config, run, _ = climb(case, "discrete")
    rungs, keys = rungs_of(TIME_LIMIT), jnp.repeat(KEYS[:1], LANES)

    def weights(**values):
        network = run(lanes(config, **values), rungs, keys, 16)[0]
        leaves = [np.asarray(x).reshape(LANES, -1) for x in jax.tree.leaves(network)]
        return np.concatenate(leaves, axis=1)

    for name, (low, high) in SWEEPS[case].items():
        values = np.linspace(low, high, LANES)
        swept = weights(**{name: values})
        assert np.any(swept[0] != swept[-1]), name
        # Bit for bit the result it has among equals.
        lane = LANES // 2
        same = weights(**{name: np.full(LANES, values[lane])})
        np.testing.assert_array_equal(swept[lane], same[lane], name)
    assert run._cache_size() == 1


@pytest.mark.parametrize("name", ALL)
def test_a_sweep_of_discounts_finds_the_value_of_each(name):
    config, run, updates = climb(name, "discrete")
    gamma = np.linspace(0.1, 0.9, LANES)
    rung = RUNGS.index(probes.TwoStepDiscount)
    _, values, _ = run(lanes(config, gamma=gamma), rungs_of(rung), KEYS, updates)
    want = [probes.TwoStepDiscount().true_value(g) for g in gamma]
    np.testing.assert_allclose(values[:, Ladder("discrete").rows(rung)], want, atol=0.03)


# Whole runs

SEEDS, REPORTS = 2, 32
# All that a state can hold is in it.
RICH = {"normalize_observations": True, "total_steps": 2**12}
RICHER = {
    "reinforce": {"scale_rewards": True},
    "actor_critic": {"scale_rewards": True},
    "a2c": {"scale_rewards": True, "optimizer": "adam"},
    "a3c": {"scale_rewards": True, "optimizer": "rmsprop"},
    "dqn": {"double": True, "n_step": 3, "prioritized": True, "exploration_repeat": 2.0},
    "ppo": {"scale_rewards": True, "objective": "kl_penalty", "kl_penalty_target": 0.01},
}


class Spoilt(probes.Masked):
    """Adds a number to every reward that is 0, and that a test can set in the state."""

    def reset_env(self, key, params):
        observation, state = super().reset_env(key, params)
        return observation, state.replace(signal=(state.signal, jnp.zeros(())))

    def step_env(self, key, state, action, params):
        mask, more = state.signal
        observation, state, reward, terminated, info = super().step_env(
            key, state.replace(signal=mask), action, params
        )
        return observation, state.replace(signal=(mask, more)), reward + more, terminated, info


def rich(name):
    return configure(name, **RICH | RICHER[name])


class Whole(NamedTuple):
    """A finished run: what trained, and its states and sums at every report, on the host."""

    name: str
    learner: Any
    chunk: Any
    states: dict
    sums: dict
    folder: Any


@pytest.fixture(scope="module", params=ALL)
def whole(request, tmp_path_factory):
    """A run of two seeds that nothing interrupts, saved half way."""
    name, folder = request.param, tmp_path_factory.mktemp(request.param)
    learner = MODULES[name].make(Spoilt(), rich(name))
    chunk = train.advance(learner)
    states, sums = {}, {}
    half = train.chunk_ends(learner, REPORTS)[REPORTS // 2]
    start = jax.jit(jax.vmap(learner.init))(train.seed_keys(0, SEEDS))
    for now, report in train.train(learner, start, reports=REPORTS, chunk=chunk):
        states[report.update], sums[report.update] = checkpoint.to_numpy(now), report.sums
        if report.update == half:
            checkpoint.save(folder, half, now, {})
    return Whole(name, learner, chunk, states, sums, folder)


def row(tree, i):
    return jax.tree.map(lambda x: x[i], tree)


def restored(whole):
    keys = train.seed_keys(0, SEEDS)
    shapes = jax.eval_shape(jax.vmap(whole.learner.init), keys)
    number, states, _ = checkpoint.restore(whole.folder, shapes)
    return number, states


def test_a_resumed_run_ends_bit_for_bit_as_if_never_interrupted(whole):
    """Every leaf: weights, optimizer, environments, replay, priorities, statistics, counters."""
    number, states = restored(whole)
    assert 0 < number < whole.learner.num_updates
    for now, report in train.train(
        whole.learner, states, done=number, reports=REPORTS, chunk=whole.chunk
    ):
        jax.tree.map(np.testing.assert_array_equal, report.sums, whole.sums[report.update])
        resumed = checkpoint.to_numpy(now)
    assert report.update == whole.learner.num_updates
    pairs = zip(
        jax.tree_util.tree_leaves_with_path(resumed),
        jax.tree.leaves(whole.states[report.update]),
        strict=True,
    )
    for (path, x), y in pairs:
        assert x.tobytes() == y.tobytes(), jax.tree_util.keystr(path)
    assert whole.chunk._cache_size() == 1  # compiled once, for the first state as for any other


def test_masked_actions_are_never_taken_and_the_best_of_the_others_found(whole):
    env, learner = Spoilt(), whole.learner
    observations = jax.tree.map(jnp.asarray, env.observations)
    params = whole.states[learner.num_updates].params
    for seed in range(SEEDS):
        action = learner.act(row(params, seed), observations)
        np.testing.assert_array_equal(action, env.best_action(observations))
    # A masked action would cost 100.
    episodes = sum(sums["episodes"] for sums in whole.sums.values())
    returns = [sums["episode_return"] for sums in whole.sums.values()]
    assert np.min(returns) >= 0
    assert np.all(episodes == learner.total_steps - learner.initial_steps)
    if whole.name == "dqn":  # nor by the random policy that filled the buffer
        assert np.min(whole.states[min(whole.states)].buffer.items.reward) >= 0


def test_a_reward_of_nan_is_reported_with_its_update_and_seed(whole):
    if whole.name == "reinforce":  # keeps no environment that could be spoilt between updates
        learner = reinforce.make(probes.NaNReward(), configure("reinforce"))
        states = jax.jit(jax.vmap(learner.init))(train.seed_keys(0, SEEDS))
        with pytest.raises(NonFiniteError, match=r"of seed 5 .* in update 1$"):
            list(train.train(learner, states, first_seed=5))
        return
    number, states = restored(whole)

    def spoil(path, x):
        hit = jax.tree_util.keystr(path).endswith("env.state.signal[1]")
        hits.append(hit)
        return x.at[1].set(jnp.nan) if hit else x

    hits = []
    states = jax.tree_util.tree_map_with_path(spoil, states)
    assert sum(hits) == 1
    with pytest.raises(NonFiniteError, match=rf"of seed 6 .* in update {number + 1}$"):
        list(train.train(whole.learner, states, done=number, chunk=whole.chunk, first_seed=5))


@functools.cache
def alone(name):
    """The same learner in one lane, its configuration an argument: jitted init and update."""
    make = lambda config: MODULES[name].make(Spoilt(), config)  # noqa: E731
    init = jax.jit(lambda config, key: make(config).init(key))
    update = jax.jit(lambda config, state: make(config).update(state))
    return make(rich(name)), init, update


def test_a_seed_among_others_is_the_seed_alone(whole):
    """And a hyperparameter that is an argument is one that is a constant."""
    config = rich(whole.name)
    _, init, update = alone(whole.name)
    first = min(whole.states)
    for seed in range(SEEDS):
        state = init(config, jax.random.key(seed))
        for _ in range(first):
            state, _ = update(config, state)
        close = functools.partial(np.testing.assert_allclose, atol=2e-5, rtol=2e-5)
        jax.tree.map(close, checkpoint.to_numpy(state), row(whole.states[first], seed))
    assert update._cache_size() == 1


GRADIENT_STEPS = {
    "reinforce": 1,
    "actor_critic": 8,
    "a2c": 1,
    "a3c": 4,
    "dqn": 4,
    "ppo": 8,
}


@pytest.mark.parametrize("name", ALL)
def test_counts(name):
    """Steps, updates, gradient steps, episodes, and the observations to normalise by."""
    config = rich(name)
    learner, init, update = alone(name)
    state = init(config, jax.random.key(0))
    # Whole rows of eight environments.
    assert learner.initial_steps == (256 if name == "dqn" else 0)
    assert learner.steps_per_update == config.num_envs * config.num_steps
    for done in range(3):
        assert int(state.steps) == learner.steps_after(done) == state.params.moments.total
        assert done * learner.steps_per_update == learner.steps_after(done) - learner.initial_steps
        state, sums = update(config, state)
        assert sums["gradient_steps"] == GRADIENT_STEPS[name]
        assert sums["episodes"] == sums["episode_length"] == learner.steps_per_update
    assert learner.steps_after(learner.num_updates) == learner.total_steps >= config.total_steps
    assert learner.steps_after(learner.num_updates - 1) < config.total_steps


def test_a_run_is_rounded_up_to_whole_updates():
    for name in ALL:
        learner = MODULES[name].make(Spoilt(), configure(name, total_steps=1000))
        assert learner.steps_after(learner.num_updates) == learner.total_steps
        assert 1000 <= learner.total_steps < 1000 + learner.steps_per_update


@pytest.mark.parametrize("name", ALL)
def test_the_learning_rate_is_annealed_to_zero_and_stays_there(name):
    # What else depends on the steps is kept constant.
    constant = {"epsilon_start": 0.1, "epsilon_end": 0.1, "importance_exponent": 1.0}
    config = dataclasses.replace(rich(name), **constant if name == "dqn" else {})
    learner, init, update = alone(name)
    start = init(config, jax.random.key(0))

    def moved(config, steps):
        state = start._replace(steps=Counter.zero().add(steps))
        after, _ = update(config, state)
        pairs = zip(*(jax.tree.leaves(s.params.network) for s in (start, after)), strict=True)
        return np.concatenate([np.ravel(b - a) for a, b in pairs])

    total = learner.total_steps
    assert np.any(moved(config, total - learner.steps_per_update))
    for steps in (total, total + learner.steps_per_update):
        assert not np.any(moved(config, steps))
    # Half way it is the half of itself.
    rates = [field for field in dataclasses.asdict(config) if field.endswith("learning_rate")]
    rates = {field: getattr(config, field) / 2 for field in rates if "anneal" not in field}
    whole, half = moved(config, 0), moved(config, total // 2)
    halved = moved(dataclasses.replace(config, **rates), 0)
    scale = np.abs(halved).max()
    # Within an update the rate may sink as well, by an equal amount instead of an equal factor.
    np.testing.assert_allclose(half, halved, atol=0.05 * scale)
    assert np.abs(half - whole).max() > 0.5 * scale


# Networks of users


class Tower(nn.Module):
    """One layer for everything; a policy's outputs and values, or one value per action."""

    size: int
    values: bool = True
    missing: int = 0

    @nn.compact
    def __call__(self, observation):
        x = nn.tanh(nn.Dense(16)(networks.flatten(observation)))
        outputs = nn.Dense(self.size - self.missing)(x)
        return (outputs, nn.Dense(1)(x)[:, 0]) if self.values else outputs


@pytest.mark.parametrize("name", ["a2c", "ppo", "dqn"])
def test_a_users_own_network_learns_from_nested_observations(name):
    env = probes.PytreeObservation()
    options = {"total_steps": 2**16, "num_envs": 32, "num_steps": 1} if name == "a2c" else {}
    network = functools.partial(Tower, values=name != "dqn")
    learner = MODULES[name].make(env, configure(name, **options), network=network)
    params = finished(learner)
    assert params.network["params"].keys() >= {"Dense_0", "Dense_1"}
    # In the middle of the noise.
    observations = jax.tree.map(jnp.asarray, env.observations)
    observations["image"] += 0.5
    np.testing.assert_allclose(learner.value(params, observations), np.ones(3), atol=0.1)
    np.testing.assert_array_equal(learner.act(params, observations), env.best_action(observations))


# Bad input


def says(text, make):
    """Raises InputError with a message that holds `text`, and is one sentence."""
    with pytest.raises(InputError) as caught:
        make()
    message = str(caught.value)
    assert text in message
    assert message.endswith(".")
    assert ". " not in message
    assert "\n" not in message


@pytest.mark.parametrize("name", ALL)
def test_a_network_of_the_wrong_shape_is_refused(name):
    network = functools.partial(Tower, values=name != "dqn", missing=1)
    wanted = "must give (2, 2)" if name == "dqn" else "must give ((2, 2), (2,))"
    env = probes.ConstantReward()
    says(wanted, lambda: MODULES[name].make(env, configure(name), network=network))


def test_a_network_for_a_distribution_must_give_its_atoms():
    config = configure("dqn", distributional="quantile")
    network = functools.partial(Tower, values=False)
    says("must give (2, 2, 9)", lambda: dqn.make(probes.ConstantReward(), config, None, network))


class Endless(probes.TimeLimit):
    """Its time limit is none."""

    @property
    def default_params(self):
        return probes.TimeLimitParams(max_steps_in_episode=probes.NEVER)


UNIT = "must be a finite number at least 0 and at most 1."
REFUSED = [
    ("dqn", {"buffer_size": 31, "num_steps": 1}, "buffer_size is 31, but must be at least batch"),
    ("dqn", {"buffer_size": 64, "n_step": 65, "learning_starts": 1}, "at least n_step = 65."),
    ("dqn", {"buffer_size": 32, "num_steps": 5}, "at least num_envs * num_steps = 40."),
    ("dqn", {"buffer_size": 255}, "must be at least learning_starts"),
    ("dqn", {"n_step": 0}, "n_step is 0, but must be a whole number at least 1."),
    ("dqn", {"num_atoms": 1}, "num_atoms is 1, but must be a whole number at least 2."),
    ("dqn", {"priority_exponent": 1.5}, f"priority_exponent is 1.5, but {UNIT}"),
    ("dqn", {"priority_exponent": -0.1}, f"priority_exponent is -0.1, but {UNIT}"),
    ("dqn", {"importance_exponent": 2.0}, f"importance_exponent is 2.0, but {UNIT}"),
    ("dqn", {"importance_exponent": -1.0}, f"importance_exponent is -1.0, but {UNIT}"),
    ("dqn", {"v_min": 1.0, "v_max": 1.0}, "v_min is 1.0, but must be below v_max, which is 1.0."),
    ("dqn", {"v_min": 2.0, "v_max": 1.0}, "v_min is 2.0, but must be below v_max, which is 1.0."),
    ("dqn", {"epsilon_end": 0.0, "epsilon_schedule": "exponential"}, "needs both above 0"),
    ("dqn", {"tau": 0.0}, "tau is 0.0, but must be a finite number above 0 and at most 1."),
    ("a3c", {"num_workers": 3}, "which does not divide num_envs = 8; the nearest number that does"),
    ("a3c", {"num_workers": 7}, "nearest number that does is 8."),
    ("a3c", {"num_workers": 16}, "nearest number that does is 8."),
    ("a3c", {"delays": "late"}, "delays is 'late', but must be one of"),
    ("a2c", {"optimizer": "sgd"}, "optimizer is 'sgd', but must be one of rmsprop, adam"),
    ("ppo", {"num_minibatches": 5}, "num_minibatches is 5, which does not divide the batch of"),
    ("reinforce", {"num_steps": 0}, "num_steps is 0, but must be a whole number at least 1."),
    *((name, {"num_envs": 0}, "num_envs is 0, but must be") for name in ALL),
    *((name, {"gamma": 1.1}, f"gamma is 1.1, but {UNIT}") for name in ALL),
]


@pytest.mark.parametrize(("name", "options", "text"), REFUSED)
def test_a_configuration_that_cannot_work_is_refused(name, options, text):
    says(text, lambda: MODULES[name].make(probes.ConstantReward(), configure(name, **options)))


@pytest.mark.parametrize("kind", ["continuous", "multi_discrete"])
def test_dqn_takes_discrete_actions_only(kind):
    env = probes.ConstantReward(kind)
    says("DQN takes discrete actions, but the action space is", lambda: dqn.make(env))


def test_reinforce_needs_a_number_of_steps_where_there_is_no_time_limit():
    config = configure("reinforce", num_steps=None)
    text = f"num_steps is None, but the environment's max_steps_in_episode is {probes.NEVER}"
    says(text, lambda: reinforce.make(Endless(), config))
    learner = reinforce.make(probes.TimeLimit(), config)
    assert learner.steps_per_update == 8 * 5  # a whole episode of each environment
