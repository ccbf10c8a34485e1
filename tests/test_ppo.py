"""PPO as a whole: exact where it can be exact, and right on problems with a known answer."""

import dataclasses
import itertools

import flax.linen as nn
import gymnax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlax_lab import networks, ppo
from rlax_lab.errors import InputError
from rlax_lab.types import Counter
from tests import probes

GAMMA = 0.9
SMALL = ppo.Config(
    total_steps=2**14,
    num_envs=32,
    num_steps=8,
    num_epochs=4,
    num_minibatches=4,
    learning_rate=1e-2,
    gamma=GAMMA,
    hidden_sizes=(16,),
    max_grad_norm=None,
)


def trained(learner, key, updates=None):
    """The state after `updates` updates, by default a whole run, and the summed metrics."""
    updates = updates or learner.total_steps // learner.steps_per_update

    @jax.jit
    def run(key):
        step = lambda state, _: learner.update(state)  # noqa: E731
        state, sums = jax.lax.scan(step, learner.init(key), length=updates)
        return state, jax.tree.map(lambda x: jnp.sum(x, axis=0), sums)

    return run(key)


def ladder():
    for kind in probes.KINDS:
        for probe in (
            probes.ConstantReward,
            probes.ObservationReward,
            probes.TwoStepDiscount,
            probes.ActionReward,
            probes.ObservationActionReward,
        ):
            yield pytest.param(probe(kind), {}, id=f"{probe.__name__}-{kind}")
    yield pytest.param(probes.Masked(), {}, id="Masked")
    # Most of what it shows is noise.
    more = {"total_steps": 2**16, "num_envs": 128, "num_minibatches": 16, "activation": "relu"}
    yield pytest.param(probes.PytreeObservation(), more, id="PytreeObservation")
    kl = {"objective": "kl_penalty", "kl_penalty_target": 0.02}
    yield pytest.param(probes.ObservationActionReward("discrete"), kl, id="kl_penalty")
    tanh = {"squash": "tanh"}
    yield pytest.param(probes.ObservationActionReward("continuous"), tanh, id="tanh")
    clipped = {"value_clip_range": 0.5, "shared_torso": True, "normalize_observations": True}
    yield pytest.param(probes.ObservationActionReward("multi_discrete"), clipped, id="options")


@pytest.mark.parametrize(("env", "options"), list(ladder()))
def test_ladder_of_probes(env, options):
    """Values come out at their closed form, actions at the best one."""
    learner = ppo.make(env, dataclasses.replace(SMALL, **options))
    state, _ = trained(learner, jax.random.key(0))
    observations = jax.tree.map(jnp.asarray, env.observations)
    noise = 0.15 if getattr(env, "kind", "") == "continuous" and hasattr(env, "best_action") else 0
    # The value is that of the policy as it explores, a little under the best.
    np.testing.assert_allclose(
        learner.value(state.params, observations), env.true_value(GAMMA), atol=0.05 + noise
    )
    if hasattr(env, "best_action"):
        best = env.best_action(observations)
        for got, want in zip(
            jax.tree.leaves(learner.act(state.params, observations)),
            jax.tree.leaves(best),
            strict=True,
        ):
            np.testing.assert_allclose(got, want, atol=0.15 if noise else 0)


@pytest.mark.parametrize("gae_lambda", [0.0, 0.95, 1.0])
def test_time_limit_is_no_termination_and_bootstraps_from_the_final_observation(gae_lambda):
    env = probes.TimeLimit()
    config = dataclasses.replace(SMALL, gae_lambda=gae_lambda, total_steps=2**16)
    learner = ppo.make(env, config)
    state, _ = trained(learner, jax.random.key(0))
    value = learner.value(state.params, jnp.asarray(env.observations))
    np.testing.assert_allclose(value, env.true_value(GAMMA), rtol=0.03)


def test_masked_actions_are_never_taken():
    env = probes.Masked()
    learner = ppo.make(env, SMALL)
    _, sums = trained(learner, jax.random.key(1))
    assert sums["episode_return"] >= 0  # one masked action would cost 100
    assert sums["episode_return"] / sums["episodes"] > 0.8


@pytest.mark.parametrize("objective", ["clip", "kl_penalty"])
def test_first_minibatch_has_ratio_one(objective):
    """With one pass of one minibatch every gradient is taken at the policy that acted."""
    env, _ = gymnax.make("CartPole-v1")
    config = dataclasses.replace(
        SMALL,
        num_epochs=1,
        num_minibatches=1,
        objective=objective,
        clip_range=1e-5,
        normalize_observations=True,
    )
    _, sums = trained(ppo.make(env, config), jax.random.key(0), 20)
    assert sums["clip_fraction"] == 0  # no ratio further than 1e-5 from 1
    assert abs(sums["kl"]) / 20 < 1e-9
    two = dataclasses.replace(config, num_epochs=2)
    _, sums = trained(ppo.make(env, two), jax.random.key(0), 20)
    assert sums["clip_fraction"] > 0  # and the measure can tell


def test_stops_its_passes_on_kl():
    env, _ = gymnax.make("CartPole-v1")
    counts = {}
    for target_kl in (None, 1e6, 1e-3, 1e-9):
        learner = ppo.make(env, dataclasses.replace(SMALL, target_kl=target_kl))
        counts[target_kl] = float(trained(learner, jax.random.key(0), 10)[1]["gradient_steps"])
    assert counts[None] == counts[1e6] == 10 * 4 * 4
    assert counts[1e-9] == 10 * 4  # one pass of four minibatches each
    assert counts[1e-9] < counts[1e-3] < counts[None]


def test_kl_penalty_adapts_towards_its_target():
    env, _ = gymnax.make("CartPole-v1")
    for target, direction in ((1e-7, 1), (10.0, -1)):
        config = dataclasses.replace(SMALL, objective="kl_penalty", kl_penalty_target=target)
        state, _ = trained(ppo.make(env, config), jax.random.key(0), 5)
        assert np.sign(np.log2(state.kl_coef)) == direction


def test_learning_rate_reaches_zero_and_stays_there():
    env = probes.ObservationReward()
    learner = ppo.make(env, dataclasses.replace(SMALL, total_steps=2 * 256))
    update = jax.jit(learner.update)
    states = [learner.init(jax.random.key(0))]
    for _ in range(4):
        states.append(update(states[-1])[0])
    weights = [np.concatenate([x.ravel() for x in jax.tree.leaves(s.params)]) for s in states]
    moved = [bool(np.any(a != b)) for a, b in itertools.pairwise(weights)]
    assert moved == [True, True, False, False]


@pytest.mark.parametrize("name", ["learning_rate", "clip_range"])
def test_half_way_an_annealed_setting_is_halved(name):
    env = probes.ObservationActionReward()
    whole = {"learning_rate": 1e-2, "clip_range": 0.3}[name]
    config = dataclasses.replace(SMALL, anneal_learning_rate=False, **{name: whole})

    def after_one_update(config):
        learner = ppo.make(env, config)
        state = learner.init(jax.random.key(0))
        state = state._replace(steps=Counter.zero().add(learner.total_steps // 2))
        params = jax.jit(learner.update)(state)[0].params
        return np.concatenate([x.ravel() for x in jax.tree.leaves(params)])

    annealed = after_one_update(dataclasses.replace(config, **{f"anneal_{name}": True}))
    halved = after_one_update(dataclasses.replace(config, **{name: whole / 2}))
    np.testing.assert_allclose(annealed, halved, atol=1e-6)
    assert np.abs(annealed - after_one_update(config)).max() > 1e-4


def test_update_compiles_once_and_sweeps_without_compiling_again():
    """Learning rate, clip range, gamma and entropy weight are arguments, not constants."""
    env, _ = gymnax.make("CartPole-v1")
    traces = 0

    @jax.jit
    def run(config, keys):
        nonlocal traces
        traces += 1

        def one(config, key):
            learner = ppo.make(env, config)
            state, _ = jax.lax.scan(lambda s, _: learner.update(s), learner.init(key), length=2)
            return state.params.network

        return jax.vmap(one)(config, keys)

    keys = jax.random.split(jax.random.key(0), 3)

    def configs(**values):
        whole = jax.tree.map(lambda x: jnp.full(3, x, jnp.float32), SMALL)
        return dataclasses.replace(whole, **{k: jnp.array(v) for k, v in values.items()})

    sweep = {"learning_rate": [1e-4, 1e-3, 1e-2]}
    first = run(configs(**sweep), keys)
    for name in ("clip_range", "gamma", "entropy_coef"):
        run(configs(**{name: [0.1, 0.2, 0.3]}), keys)
    assert traces == 1
    # Each member of the sweep is the run that one would get alone.
    for i, rate in enumerate(sweep["learning_rate"]):
        alone = ppo.make(env, dataclasses.replace(SMALL, learning_rate=rate))
        state, _ = trained(alone, keys[i], 2)
        for a, b in zip(jax.tree.leaves(state.params.network), jax.tree.leaves(first), strict=True):
            np.testing.assert_allclose(a, b[i], atol=2e-5)


def test_update_traces_once_over_a_run():
    env, _ = gymnax.make("CartPole-v1")
    learner = ppo.make(env, SMALL)
    update = jax.jit(learner.update)
    state = jax.jit(learner.init)(jax.random.key(0))
    for _ in range(3):
        state, _ = update(state)
    assert update._cache_size() == 1


def test_normaliser_learns_from_what_was_seen_only_after_the_update():
    env, _ = gymnax.make("CartPole-v1")
    config = dataclasses.replace(SMALL, normalize_observations=True)
    learner = ppo.make(env, config)
    state = learner.init(jax.random.key(0))
    assert state.params.moments.total == 0
    state, _ = jax.jit(learner.update)(state)
    assert state.params.moments.total == 32 * 8


class Tower(nn.Module):
    """A user's own network: one layer for everything."""

    size: int

    @nn.compact
    def __call__(self, observation):
        x = nn.tanh(nn.Dense(16)(networks.flatten(observation)))
        return nn.Dense(self.size)(x), nn.Dense(1)(x)[:, 0]


def test_a_users_own_network_learns():
    env = probes.ObservationActionReward()
    learner = ppo.make(env, SMALL, network=Tower)
    state, _ = trained(learner, jax.random.key(0))
    value = learner.value(state.params, jnp.asarray(env.observations))
    np.testing.assert_allclose(value, env.true_value(GAMMA), atol=0.05)


def test_environment_parameters_can_be_swept():
    """One program trains on environments that differ in their parameters."""
    env = probes.TimeLimit()

    @jax.jit
    @jax.vmap
    def run(first_reward):
        params = env.default_params.replace(first_reward=first_reward)
        learner = ppo.make(env, dataclasses.replace(SMALL, total_steps=2**15), params)
        state, _ = jax.lax.scan(
            lambda s, _: learner.update(s), learner.init(jax.random.key(0)), length=128
        )
        return learner.value(state.params, jnp.asarray(env.observations))[0]

    rewards = jnp.array([-1.0, 3.0])
    np.testing.assert_allclose(run(rewards), rewards + GAMMA / (1 - GAMMA), rtol=0.05)


def test_minibatches_must_divide_the_batch():
    with pytest.raises(InputError, match="does not divide the batch of num_envs"):
        ppo.make(probes.ConstantReward(), dataclasses.replace(SMALL, num_minibatches=5))
