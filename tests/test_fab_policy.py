"""The dispatching policy of many agents: it starts as a rule and fits any fab."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from envs.fab import describe, figures, rules
from envs.fab import simulate as sim
from envs.fab.env import FabEnv
from rlax_lab import fab_policy, fab_train, vector
from rlax_lab.errors import InputError
from rlax_lab.rollout import rollout, successor_values

GROUPS: dict[str, Any] = {"litho": {"tools": 2, "setups": 3}, "etch": {}, "bake": {"tools": 2}}


def plan(lots: int = 8, groups: int = 3) -> describe.Plan:
    """Lots that come back to lithography, and wait there."""
    others = ["etch", "bake"][: groups - 1]
    visits = [("litho", 12.0, "m1"), ("litho", 20.0, "m2"), ("litho", 9.0, "m1")]
    route: list[Any] = []
    for i, (group, time, setup) in enumerate(visits):
        route += [{"group": group, "time": {"mean": time, "kind": "lognormal", "cv": 0.4}}]
        route[-1] |= {"setup": setup} if i else {}
        route += [[other, 8.0 + i] for other in others]
    names = ["litho", *others]
    return describe.Plan(
        {
            "conwip": lots,
            "spread": True,
            "groups": {name: GROUPS[name] for name in names},
            "products": {"a": {"route": route, "due_factor": [1.2, 3], "weight": [1, 5]}},
        }
    )


def play(env: FabEnv, pi: Any, params: Any, steps: int) -> Any:
    """The fab after an episode of greedy actions."""
    env_params = env.default_params

    def body(carry: Any, _: Any) -> Any:
        seen, state = carry
        over = env.is_truncated(state, env_params)
        after = env.step_env(jax.random.key(0), state, pi.act(params, seen), env_params)[:2]
        return jax.tree.map(lambda x, y: jnp.where(over, x, y), carry, after), None

    start = env.reset_env(jax.random.key(0), env_params)
    (_, state), _ = jax.jit(lambda carry: jax.lax.scan(body, carry, length=steps))(start)
    assert bool(env.is_truncated(state, env_params))
    return state.fab


def coarse(pi: Any) -> Any:
    """The policy with scores in sixty-fourths: lots that rounding alone tells apart are level."""

    def act(params: Any, seen: Any) -> jax.Array:
        choices = pi.outputs(params, seen)[0]
        return pi.to_action(choices._replace(scores=jnp.round(64 * choices.scores)).mode())

    return pi._replace(act=act)


@pytest.mark.parametrize(
    "config",
    [
        fab_policy.Config(actors="shared"),
        fab_policy.Config(actors="embedded"),
        fab_policy.Config(actors="separate"),
        fab_train.Evolution(hidden=0),
    ],
    ids=["shared", "embedded", "separate", "index"],
)
def test_an_untrained_policy_is_its_rule(config: fab_policy.Config) -> None:
    """Its greedy dispatches are those of the rule that it starts from, to the last figure."""
    env = FabEnv(plan(), days=2, rule="setup > WSPT")
    pi = fab_policy.make(env, env.default_params, config)
    fab = play(env, pi, pi.init(jax.random.key(1)), 1500)
    window = figures.Window(jnp.int32(0), env.default_params.horizon)
    start = sim.start(env.default_params.instance, jax.random.key(0)[None], window)
    alone = sim.run(env.default_params.instance, rules.parse("setup > WSPT"), start)
    for x, y in zip(jax.tree.leaves(fab.figures), jax.tree.leaves(alone.figures), strict=True):
        np.testing.assert_array_equal(x, y[0])


@pytest.mark.parametrize("one_at_a_time", [False, True])
def test_agents_as_a_rule_dispatch_as_in_the_environment(one_at_a_time: bool) -> None:
    """What `simulate.run` makes of an odd policy is what stepping the environment makes of it."""
    env = FabEnv(plan(), days=2, rule="SPT", one_at_a_time=one_at_a_time)
    params = env.default_params
    pi = coarse(fab_policy.make(env, params))
    weights = pi.init(jax.random.key(1))
    weights = jax.tree.map(
        lambda x: x + 0.5 * jax.random.normal(jax.random.key(2), x.shape), weights
    )
    fab = play(env, pi, weights, 2500)
    window = figures.Window(jnp.int32(0), params.horizon)
    start = sim.start(params.instance, jax.random.key(0)[None], window)
    rule = env.deciding(params, lambda seen: pi.act(weights, seen))
    alone = jax.jit(lambda start: sim.run(params.instance, rule, start))(start)
    for x, y in zip(jax.tree.leaves(fab.figures), jax.tree.leaves(alone.figures), strict=True):
        np.testing.assert_array_equal(x, y[0])
    spt = jax.jit(lambda start: sim.run(params.instance, rules.parse("SPT"), start))(start)
    assert (
        np.asarray(spt.figures.cycle_time.low) != np.asarray(alone.figures.cycle_time.low)
    ).any()


def test_an_index_alone_is_linear_in_what_is_seen() -> None:
    """Without hidden units, scores are a product with the features, besides the preference."""
    env = FabEnv(plan(), rule="SPT")
    config = fab_train.Evolution(hidden=0, prior=0.7)
    pi = fab_policy.make(env, env.default_params, config)
    weights = pi.init(jax.random.key(0))
    (index,) = jax.tree.leaves(weights.network)
    assert not index.any()
    index = jax.random.normal(jax.random.key(1), index.shape)
    weights = weights._replace(network=jax.tree.map(lambda _: index, weights.network))
    seen, _ = env.reset_env(jax.random.key(0), env.default_params)
    preference, lots, by = (np.asarray(x, np.float64) for x in (seen.preference, seen.lots, index))
    wanted = (0.7 + by[0] / 5) * preference + lots @ by[1:]
    where = np.asarray(seen.options)
    assert where.any()
    scores = pi.outputs(weights, seen)[0].scores
    np.testing.assert_allclose(scores[where], wanted[where], atol=1e-5)


@pytest.mark.parametrize("critic", ["lots", "central", "independent"])
def test_shared_weights_fit_other_fabs(critic: str) -> None:
    """One set of weights serves fabs with more lots and other groups."""
    small, large = FabEnv(plan(5, 2)), FabEnv(plan(9, 3))
    params = fab_policy.make(small, small.default_params, critic=critic).init(jax.random.key(0))
    pi = fab_policy.make(large, large.default_params, critic=critic)
    seen, _ = large.reset_env(jax.random.key(0), large.default_params)
    choices, value = pi.outputs(params, seen)
    assert choices.scores.shape == (9,)
    assert value.shape == ((9,) if critic == "lots" else (3,))
    assert (np.ptp(value) == 0) == (critic == "central")


@pytest.mark.parametrize("critic", ["lots", "central"])
def test_the_order_of_lots_means_nothing(critic: str) -> None:
    """Lots in other slots have the scores and values that they had, and groups theirs."""
    env = FabEnv(plan())
    pi = fab_policy.make(env, env.default_params, critic=critic)
    params = pi.init(jax.random.key(0))
    params = jax.tree.map(lambda x: x + 0.3 * jax.random.normal(jax.random.key(2), x.shape), params)
    seen, _ = env.reset_env(jax.random.key(0), env.default_params)
    order = np.random.default_rng(0).permutation(8)
    moved = seen.replace(
        **{k: getattr(seen, k)[order] for k in ("lots", "group", "options", "preference", "number")}
    )
    choices, value = pi.outputs(params, seen)
    again, others = pi.outputs(params, moved)
    np.testing.assert_allclose(again.scores, choices.scores[order], atol=1e-5)
    np.testing.assert_allclose(others, value[order] if critic == "lots" else value, atol=1e-5)
    assert np.ptp(choices.scores) > 0.1


def test_credit_follows_every_lot() -> None:
    """Advantages and targets of a rollout against plain loops over lots, in float64."""
    env = FabEnv(plan(6), days=0.2, warmup=0.5, rule="SPT")
    env_params, steps, fabs = env.default_params, 60, 2
    pi = fab_policy.make(env, env_params, critic="lots")
    params = pi.init(jax.random.key(1))
    params = jax.tree.map(lambda x: x + 0.3 * jax.random.normal(jax.random.key(2), x.shape), params)

    @jax.jit
    def found() -> Any:
        start = vector.reset(env, env_params, jax.random.key(3), fabs)
        envs, played = rollout(pi, params, env, env_params, start, jax.random.key(4), steps)
        value = pi.value(params, played.observation)
        final = pi.value(params, played.step.next_observation)
        assert pi.credit is not None
        following = successor_values(pi, params, played, value, envs.observation)
        judged = pi.credit(played, value, following, 0.99, 0.9)
        return played, value, final, judged

    played, value, final, (advantage, target, valued) = jax.tree.map(np.asarray, found())
    seen, step = played.observation, played.step
    assert step.ended.any()
    assert (seen.number[1:] != seen.number[:-1]).any()
    of_groups = np.zeros(advantage.shape)
    for fab in range(fabs):
        for lot in range(6):
            # Backwards: what the lot's errors add up to from here on.
            trace = 0.0
            for t in reversed(range(steps)):
                after, inside = step.next_observation, seen.number[t, fab, lot] >= 0
                stays = after.number[t, fab, lot] == seen.number[t, fab, lot]
                discount = 0.99 if stays else 0.0
                error = float(after.gains[t, fab, lot]) - float(value[t, fab, lot])
                error += discount * float(final[t, fab, lot])
                cut = step.ended[t, fab] or t == steps - 1
                trace = error + (0.0 if cut else 0.9 * discount * trace)
                assert valued[t, fab, lot] == inside
                if not inside:
                    trace = 0.0
                    continue
                np.testing.assert_allclose(
                    target[t, fab, lot], trace + value[t, fab, lot], atol=1e-4
                )
                if seen.options[t, fab, lot]:
                    of_groups[t, fab, seen.group[t, fab, lot]] += trace
    np.testing.assert_allclose(advantage, of_groups, atol=1e-3)


def test_bad_settings() -> None:
    env = FabEnv(plan())
    with pytest.raises(InputError, match="actors is"):
        fab_policy.make(env, env.default_params, fab_policy.Config(actors="some"))
    with pytest.raises(InputError, match="hidden is 0, but must be"):
        fab_policy.make(env, env.default_params, fab_policy.Config(hidden=0))
    index = fab_train.Evolution(hidden=0, actors="separate")
    with pytest.raises(InputError, match="actors is separate, but where hidden is 0 it must be"):
        fab_policy.make(env, env.default_params, index)
