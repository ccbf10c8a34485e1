"""What is PPO's own: exact where it can be exact, and right on problems with a known answer."""

import dataclasses
import itertools

import gymnax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlax_lab import distributions, policy, ppo
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
    anneal_learning_rate=True,
    adam_eps=1e-5,
    max_grad_norm=None,
    gamma=GAMMA,
    gae_lambda=0.95,
    objective="clip",
    clip_range=0.2,
    anneal_clip_range=False,
    target_kl=None,
    kl_coef=1.0,
    value_clip_range=None,
    value_coef=0.5,
    entropy_coef=0.0,
    advantage_normalization="minibatch",
    hidden_sizes=(16,),
    activation="tanh",
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


def cases():
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


@pytest.mark.parametrize(("env", "options"), list(cases()))
def test_options_find_the_known_answer(env, options):
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


def run_on_cartpole(updates):
    """A jitted function of a configuration: the last state and the summed metrics."""
    env, _ = gymnax.make("CartPole-v1")

    @jax.jit
    def run(config):
        return trained(ppo.make(env, config), jax.random.key(0), updates)

    return run


def test_stops_its_passes_on_kl():
    run, counts = run_on_cartpole(10), {}
    for target_kl in (None, 1e6, 1e-3, 1e-9):
        config = dataclasses.replace(SMALL, target_kl=target_kl)
        counts[target_kl] = float(run(config)[1]["gradient_steps"])
    assert counts[None] == counts[1e6] == 10 * 4 * 4
    assert counts[1e-9] == 10 * 4  # one pass of four minibatches each
    assert counts[1e-9] < counts[1e-3] < counts[None]


def test_kl_penalty_adapts_towards_its_target():
    run = run_on_cartpole(5)
    for target, direction in ((1e-7, 1), (10.0, -1)):
        config = dataclasses.replace(SMALL, objective="kl_penalty", kl_penalty_target=target)
        assert np.sign(np.log2(run(config)[0].kl_coef)) == direction


def test_the_value_comes_first():
    """Until then the acting half of the network stays as it was, and afterwards it learns."""
    env = probes.PytreeObservation()
    learner = ppo.make(env, dataclasses.replace(SMALL, value_updates=2, entropy_coef=0.1))
    states = [trained(learner, jax.random.key(0), updates=n)[0] for n in (1, 2, 3)]
    seen = states[0].env.observation
    pi = policy.make(env, env.default_params, SMALL)
    outputs, values = zip(*(pi.outputs(state.params, seen) for state in states), strict=True)
    np.testing.assert_array_equal(outputs[0], outputs[1])
    assert np.abs(outputs[2] - outputs[1]).max() > 1e-4
    for before, after in itertools.pairwise(values):
        assert np.abs(after - before).max() > 1e-4


def test_after_the_value_the_policy_begins_as_in_a_new_run():
    """The first of Adam's steps is as long as the learning rate (Kingma and Ba 2015, section 2.1),
    the policy's too, for which the gradients before were zero."""
    env, rate = probes.PytreeObservation(), 1e-3
    config = dataclasses.replace(
        SMALL,
        value_updates=8,
        num_epochs=1,
        num_minibatches=1,
        learning_rate=rate,
        anneal_learning_rate=False,
        adam_eps=1e-8,
    )
    learner = ppo.make(env, config)
    before, after = (trained(learner, jax.random.key(0), updates=n)[0].params for n in (8, 9))
    moved = jax.tree.map(lambda x, y: np.abs(x - y).max(), before.network, after.network)
    np.testing.assert_allclose(jax.tree.leaves(moved), rate, rtol=1e-3)


def test_the_value_alone_may_take_longer_than_32_bits_count():
    config = dataclasses.replace(SMALL, value_updates=10**9)
    trained(ppo.make(probes.PytreeObservation(), config), jax.random.key(0), updates=1)


def test_the_values_targets_have_a_trace_of_their_own():
    """Values learn as with its decay and the policy as with the advantages', as far as the two
    share no weights and no norm of their gradients."""
    env, env_params = gymnax.make("CartPole-v1")

    def outputs(gae_lambda, value_lambda=None):
        config = dataclasses.replace(SMALL, gae_lambda=gae_lambda, value_lambda=value_lambda)
        state = trained(ppo.make(env, config, env_params), jax.random.key(0), updates=1)[0]
        return policy.make(env, env_params, config).outputs(state.params, state.env.observation)

    (short, short_value), (long, long_value) = outputs(0.5), outputs(1.0)
    assert np.abs(short - long).max() > 1e-3
    assert np.abs(short_value - long_value).max() > 1e-3
    both, both_value = outputs(0.5, 1.0)
    np.testing.assert_allclose(both, short, atol=1e-6)
    np.testing.assert_allclose(both_value, long_value, atol=1e-6)


def test_half_way_an_annealed_clip_range_is_halved():
    @jax.jit
    def after_one_update(config):
        learner = ppo.make(probes.ObservationActionReward(), config)
        state = learner.init(jax.random.key(0))
        state = state._replace(steps=Counter.zero().add(learner.total_steps // 2))
        leaves = jax.tree.leaves(learner.update(state)[0].params)
        return jnp.concatenate([x.ravel() for x in leaves])

    config = dataclasses.replace(SMALL, anneal_learning_rate=False, clip_range=0.3)
    annealed = after_one_update(dataclasses.replace(config, anneal_clip_range=True))
    halved = after_one_update(dataclasses.replace(config, clip_range=0.15))
    np.testing.assert_allclose(annealed, halved, atol=1e-6)
    assert np.abs(annealed - after_one_update(config)).max() > 1e-4


# Several agents


class Turns(probes.Probe):
    """Two agents, of which `turns` says who decides at each of two steps; s = +-1 is shown.

    Whoever decides is paid 1 for the action that fits: agent 0 for action (s > 0), agent 1 for the
    other one. Where nobody decides, the step pays 2.
    """

    steps = 2
    turns = ((True, False), (False, True))

    def draw(self, key):
        return jax.random.rademacher(key, (), jnp.float32)

    def show(self, state):
        turns = jnp.array([*self.turns, (False, False)])
        seen = jnp.stack([state.signal, (state.time == 1).astype(jnp.float32)])
        return {"acts": turns[jnp.minimum(state.time, 2)], "seen": seen}

    def pay(self, state, action, params):
        acts = jnp.array(self.turns)[jnp.minimum(state.time, 1)]
        fits = jnp.stack(action) == jnp.stack([state.signal > 0, state.signal < 0])
        return jnp.where(acts.any(), (acts & fits).sum(), 2).astype(jnp.float32)

    def action_space(self, params=None):
        return probes.spaces.Tuple([probes.spaces.Discrete(2)] * 2)


def agents(num_agents, acts):
    """A policy of agents with two actions each, whose weights are linear in the observation."""

    def init(key):
        return policy.Params(
            {"w": jnp.zeros((2, num_agents, 3)), "b": jnp.zeros((num_agents, 3))}, None
        )

    def outputs(params, observation):
        out = jnp.einsum("...f,fak->...ak", observation["seen"], params.network["w"])
        out = out + jnp.broadcast_to(params.network["b"], out.shape)
        return out[..., :2], out[..., 2]

    def act(params, observation, key=None):
        return jnp.argmax(outputs(params, observation)[0], -1)

    return policy.Policy(
        init,
        outputs,
        distributions.Categorical,
        lambda raw: tuple(raw[..., i % num_agents] for i in range(2)),
        act,
        lambda params, observation: outputs(params, observation)[1],
        lambda params, _: params,
        acts,
    )


class Together(Turns):
    turns = ((True, True), (True, True))


class OneRests(Turns):
    turns = ((True, False), (True, False))


class NobodyActs(Turns):
    turns = ((True, False), (False, False))


# What each agent's decisions are worth under the best policy, step by step; None: there is none.
WORTH = {
    Turns: [(1 + GAMMA, None), (None, 1)],
    OneRests: [(1 + GAMMA, None), (1, None)],
    NobodyActs: [(1 + 2 * GAMMA, None), (None, None)],
}


@pytest.mark.parametrize("env", WORTH, ids=lambda cls: cls.__name__)
def test_agents_learn_from_their_own_decisions(env):
    """Values count what is paid until the end, also at steps of others; actions fit."""
    config = dataclasses.replace(SMALL, learning_rate=3e-2, gae_lambda=0.8)
    pi = agents(2, lambda observation: observation["acts"])
    state, sums = trained(ppo.make(env(), config, pi=pi), jax.random.key(0))
    assert np.isfinite(list(sums.values())).all()
    for step, worths in enumerate(WORTH[env]):
        for signal in (-1.0, 1.0):
            observation = env().show(probes.State(jnp.int32(step), jnp.float32(signal)))
            actions, values = pi.act(state.params, observation), pi.value(state.params, observation)
            for agent, worth in enumerate(worths):
                if worth is not None:
                    assert actions[agent] == (signal > 0) ^ (agent == 1)
                    np.testing.assert_allclose(values[agent], worth, atol=0.1)


@pytest.mark.parametrize("objective", ["clip", "kl_penalty"])
def test_one_agent_that_always_acts_is_ppo(objective):
    """With an axis of one agent, learning is what it is without."""
    config = dataclasses.replace(
        SMALL, objective=objective, value_clip_range=0.3, advantage_normalization="batch"
    )
    many = agents(1, lambda observation: jnp.ones((*observation["seen"].shape[:-1], 1), bool))

    def alone(params, observation):
        outputs, value = many.outputs(params, observation)
        return outputs[..., 0, :], value[..., 0]

    one = many._replace(
        outputs=alone,
        to_action=lambda raw: (raw, raw),
        value=lambda params, observation: alone(params, observation)[1],
        acts=None,
    )
    results = [
        trained(ppo.make(Together(), config, pi=pi), jax.random.key(0), 10) for pi in (one, many)
    ]
    (state, sums), (other, others) = results
    for a, b in zip(*map(jax.tree.leaves, (state.params, other.params)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    assert jnp.abs(state.params.network["w"]).max() > 0.1
    for name, total in sums.items():
        np.testing.assert_allclose(total, others[name], rtol=1e-3, atol=1e-5)
