"""The probes are what they say they are: checked with plain loops in float64."""

import itertools
from functools import partial

import jax
import numpy as np
import pytest

from tests import probes

GAMMAS = (0.0, 0.5, 0.9)
OF_EVERY_KIND = (
    probes.ConstantReward,
    probes.ObservationReward,
    probes.TwoStepDiscount,
    probes.StepsTakeTime,
    probes.ObservationActionReward,
    probes.ActionReward,
    probes.TimeLimit,
    probes.NaNReward,
)
SOUND = [cls(kind) for cls in OF_EVERY_KIND for kind in probes.KINDS] + [
    probes.Masked(),
    probes.PytreeObservation(),
]
ENDLESS = (probes.TimeLimit, probes.NaNReward)
WITH_BEST_ACTION = [env for env in SOUND if hasattr(env, "best_action")]


def label(env):
    return f"{type(env).__name__}-{env.kind}"


def good_action(env, observation):
    if hasattr(env, "best_action"):
        return env.best_action(observation)
    return env.action_space().sample(jax.random.key(0))


def episodes(env, params, count=200):
    """Episodes of the best policy side by side, which all take as long.

    Returns:
      The observations o_0..o_T as a list of pytrees [count, ...], the rewards [T, count] as
      float64, whether they terminated and whether they were truncated.
    """

    def step(key, state, observation):
        action = good_action(env, observation)
        observation, state, reward, terminated, _ = env.step_env(key, state, action, params)
        return observation, state, reward, terminated, env.is_truncated(state, params)

    step = jax.jit(jax.vmap(step))
    keys = jax.random.split(jax.random.key(0), count)
    observation, state = jax.vmap(env.reset_env, (0, None))(keys, params)
    observations, rewards, ended = [jax.device_get(observation)], [], False
    while not ended:
        observation, state, reward, terminated, truncated = step(keys, state, observation)
        observations.append(jax.device_get(observation))
        rewards.append(np.asarray(reward, np.float64))
        ended = bool((terminated | truncated).any())
    assert len(set(zip(terminated.tolist(), truncated.tolist(), strict=True))) == 1
    return observations, np.stack(rewards), bool(terminated[0]), bool(truncated[0])


def discounted(rewards, gamma):
    """The return of every step, [T, N]."""
    returns, tail = [], 0.0
    for reward in reversed(rewards):
        tail = reward + gamma * tail
        returns.append(tail)
    return returns[::-1]


def which(env, observation):
    """The index [N] in `env.observations` of each of a batch of observations."""
    if isinstance(env, probes.PytreeObservation):  # the other leaves are noise
        return observation["inner"]["count"]
    pairs = zip(jax.tree.leaves(observation), jax.tree.leaves(env.observations), strict=True)
    same = np.logical_and.reduce([(a[:, None] == b).all(-1) for a, b in pairs])
    assert (same.sum(axis=1) == 1).all()
    return same.argmax(axis=1)


@pytest.mark.parametrize("env", SOUND, ids=label)
def test_true_values_are_the_returns_of_the_best_policy(env):
    params = env.default_params
    if isinstance(env, ENDLESS):  # so long that what is cut off is below the tolerance
        params = params.replace(max_steps_in_episode=300)
    if isinstance(env, probes.NaNReward):
        params = params.replace(nan_at=probes.NEVER)
    observations, rewards, *ended = episodes(env, params)
    assert ended == ([False, True] if isinstance(env, ENDLESS) else [True, False])
    assert len(rewards) == min(env.steps, params.max_steps_in_episode)
    seen = set()
    for gamma in GAMMAS:
        true = env.true_value(gamma)
        returns = discounted(rewards, gamma * env.time_discount)
        for observation, g in itertools.islice(zip(observations, returns, strict=False), 8):
            k = which(env, observation)
            np.testing.assert_allclose(g, true[k], rtol=1e-6, atol=1e-9)
            seen.update(k.tolist())
    assert seen == set(range(len(true)))


@pytest.mark.parametrize("env", SOUND, ids=label)
def test_fits_gymnax(env):
    """The types are those of the spaces, and hold through gymnax's own `step`."""
    key, params = jax.random.key(0), env.default_params
    observation, state = jax.eval_shape(env.reset, key, params)
    action = jax.eval_shape(env.action_space(params).sample, key)
    after, *rest, info = jax.eval_shape(env.step, key, state, action, params)
    sample = jax.eval_shape(env.observation_space(params).sample, key)
    asked = jax.eval_shape(partial(jax.tree.map, lambda leaf: leaf[0]), env.observations)
    assert typed(after) == typed(info["final_observation"]) == typed(observation)
    assert typed(sample) == typed(asked) == typed(observation)
    assert typed(rest) == [*typed([state]), ((), np.float32), ((), bool), ((), bool)]


def typed(tree):
    """Shapes and dtypes, of an OrderedDict (which gymnax's Dict space gives) as of a dict."""
    if isinstance(tree, dict):
        return {key: typed(leaf) for key, leaf in tree.items()}
    return jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), tree)


def all_actions(env):
    space = env.action_space()
    if env.kind == "continuous":
        return [np.array([a], np.float32) for a in np.linspace(-1, 1, 41)]
    if env.kind == "multi_discrete":
        return list(itertools.product(*(range(s.n) for s in space.spaces)))
    return list(range(space.n))


@pytest.mark.parametrize("env", WITH_BEST_ACTION, ids=label)
def test_one_action_is_best(env):
    params = env.default_params
    actions = all_actions(env)
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *actions)
    keys = jax.random.split(jax.random.key(0), 20)
    observation, state = jax.vmap(env.reset_env, (0, None))(keys, params)
    pay = jax.vmap(jax.vmap(env.pay, (None, 0, None)), (0, None, None))
    rewards = np.asarray(pay(state, stacked, params))
    ordered = np.sort(rewards, axis=1)
    np.testing.assert_allclose(ordered[:, -1], 1.0)
    assert (ordered[:, -2] < 1.0 - 1e-3).all()
    top = jax.tree.map(lambda leaf: leaf[rewards.argmax(axis=1)], stacked)
    jax.tree.map(np.testing.assert_allclose, top, env.best_action(observation))


def test_every_component_of_a_multi_discrete_action_pays():
    env = probes.ActionReward("multi_discrete")
    _, state = env.reset_env(jax.random.key(0), env.default_params)
    pay = {a: float(env.pay(state, a, env.default_params)) for a in all_actions(env)}
    assert pay == {(i, j): 0.5 * (i == 2) + 0.5 * (j == 1) for i in range(3) for j in range(2)}


def test_a_continuous_action_pays_a_parabola():
    env = probes.ActionReward("continuous")
    _, state = env.reset_env(jax.random.key(0), env.default_params)
    for a in (-1.0, 0.0, 0.5, 1.0):
        reward = env.pay(state, np.array([a], np.float32), env.default_params)
        assert float(reward) == pytest.approx(1 - (a - 0.5) ** 2)


def test_masked_actions_cost_a_hundred():
    env = probes.Masked()
    for mask in itertools.product([False, True], repeat=4):
        state = probes.State(time=np.int32(0), signal=np.array(mask))
        if any(mask):
            last = max(np.flatnonzero(mask))
            pay = [float(env.pay(state, action, None)) for action in range(4)]
            assert pay == [float(a == last) if mask[a] else -100.0 for a in range(4)]


def test_reward_is_nan_at_one_step_only():
    env = probes.NaNReward()
    observations, rewards, *_ = episodes(env, env.default_params, 1)
    assert np.isnan(rewards[:, 0]).tolist() == [t == 3 for t in range(8)]
    assert np.isfinite(observations).all()


def td_fixed_point(rewards, gamma, lambda_, at_the_end):
    """(V(1, 1), V(1, 0)) where the mean TD(lambda) error of either observation is zero.

    `rewards` [T] are those of one episode; the last step bootstraps from `at_the_end` @ values.
    """

    def errors(values):
        """The mean errors, affine in `values`."""
        state = [0] + [1] * (len(rewards) - 1)
        successors = [values[1]] * (len(rewards) - 1) + [at_the_end @ values]
        by_state, trace = ([], []), 0.0
        for t in reversed(range(len(rewards))):
            delta = rewards[t] + gamma * successors[t] - values[state[t]]
            trace = delta + gamma * lambda_ * trace
            by_state[state[t]].append(trace)
        return np.array([np.mean(errors) for errors in by_state])

    constant = errors(np.zeros(2))
    slope = np.stack([errors(unit) - constant for unit in np.eye(2)], axis=1)
    return np.linalg.solve(slope, -constant)


TERMINATED, FIRST, FINAL = np.zeros(2), np.array([1.0, 0.0]), np.array([0.0, 1.0])


@pytest.mark.parametrize("gamma", [*GAMMAS, 0.99])
def test_time_limit_mistakes_have_the_values_documented(gamma):
    env = probes.TimeLimit()
    rewards = episodes(env, env.default_params, 1)[1][:, 0]
    assert rewards.tolist() == [-1.0, 1.0, 1.0, 1.0, 1.0]
    close = partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-9)
    for lambda_ in (0.0, 0.5, 1.0):
        close(td_fixed_point(rewards, gamma, lambda_, FINAL), env.true_value(gamma))
    close(td_fixed_point(rewards, gamma, 0.0, TERMINATED), env.value_if_terminated(gamma))
    close(td_fixed_point(rewards, gamma, 0.0, FIRST), env.value_if_reset(gamma))
    # Monte Carlo: the mean return of the m steps before a termination.
    m = len(rewards) - 1
    mean = sum((1 - gamma**k) / (1 - gamma) for k in range(1, m + 1)) / m
    close(td_fixed_point(rewards, gamma, 1.0, TERMINATED)[1], mean)


def test_time_limit_mistakes_are_far_from_the_truth():
    env = probes.TimeLimit()
    values = env.true_value(0.9), env.value_if_terminated(0.9), env.value_if_reset(0.9)
    assert [round(float(v[1]), 2) for v in values] == [10.0, 3.08, 6.33]
    rewards = episodes(env, env.default_params, 1)[1][:, 0]
    for lambda_ in (0.0, 0.5, 0.95, 1.0):
        for at_the_end in (TERMINATED, FIRST):
            assert td_fixed_point(rewards, 0.9, lambda_, at_the_end)[1] < 7.0


def step_once(env):
    observation, state = env.reset_env(jax.random.key(0), env.default_params)
    action = env.action_space().sample(jax.random.key(1))
    return observation, env.step_env(jax.random.key(2), state, action, env.default_params)


def test_broken_probes_are_broken_in_one_way():
    before, (after, _, reward, terminated, _) = step_once(probes.DriftingDtype())
    assert (before.dtype, after.dtype) == (np.float32, np.int32)
    assert before.shape == after.shape
    before, (after, *_) = step_once(probes.WrongShape())
    assert (before.shape, after.shape) == ((1,), (2,))
    _, (_, _, reward, *_) = step_once(probes.VectorReward())
    assert reward.shape == (1,)
    _, (_, _, _, terminated, _) = step_once(probes.FloatFlag())
    assert terminated.dtype == np.float32
    env = probes.NoFlags()
    assert len(step_once(env)[1]) == 4
    assert not hasattr(env, "is_truncated")
