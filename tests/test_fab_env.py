"""The fab as an environment: other people's checks, and integrals against the figures."""

from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from envs.fab import describe, env, figures, rules
from envs.fab import simulate as sim
from rlax_lab import vector

SMALL: dict[str, Any] = {
    "conwip": 6,
    "ticks": 1000,
    "groups": {
        "litho": {
            "tools": 2,
            "setups": 5,
            "setup": "m1",
            "energy": {"processing": 9, "setup": 4, "idle": 2, "down": 1},
        },
        "etch": {"breakdown": {"until": {"mean": 400, "kind": "exponential"}, "repair": 30}},
    },
    "products": {
        "a": {
            "route": [
                {
                    "group": "litho",
                    "time": {"mean": 20, "kind": "uniform", "cv": 0.3},
                    "setup": "m1",
                    "transport": 2,
                },
                ["etch", {"mean": 12, "kind": "lognormal", "cv": 0.5}],
                {
                    "group": "litho",
                    "time": {"mean": 15, "kind": "uniform", "cv": 0.3},
                    "setup": "m2",
                },
            ],
            "due_factor": [1.2, 3],
            "weight": [1, 4],
        }
    },
}


def fabs(**kwargs: Any) -> env.FabEnv:
    return env.FabEnv(describe.Plan(SMALL), days=0.5, **kwargs)


@pytest.mark.parametrize("make", [fabs, lambda: env.FlatFabEnv(describe.Plan(SMALL), days=0.5)])
def test_interface(make: Any) -> None:
    """What `reset_env` gives, `step_env` gives again, and observations lie in their space."""
    fab = make()
    params = fab.default_params
    vector.check_environment(fab, params)
    observation, state = jax.jit(fab.reset_env)(jax.random.key(0), params)
    step = jax.jit(fab.step_env)
    for i in range(30):
        key = jax.random.key(i)
        action = fab.action_space(params).sample(key)
        observation, state, reward, _, info = step(key, state, action, params)
        assert np.isfinite(reward)
        assert 0 < float(info["time_discount"]) <= 1
        space = fab.observation_space(params)
        spaces_of = getattr(space, "spaces", None)
        parts = (
            [(observation, space)]
            if spaces_of is None
            else [(getattr(observation, name), each) for name, each in spaces_of.items()]
        )
        for x, each in parts:
            assert ((x >= each.low) & (x <= each.high)).all()


def test_gymnasium() -> None:
    """The registered id, with Gymnasium's own checker."""
    made = gymnasium.make("envs.fab.gym:rlax_lab/Fab-v0", fab=describe.Plan(SMALL), days=0.5)
    check_env(made.unwrapped, skip_render_check=True)
    observation, info = made.reset(seed=3)
    again, _ = made.reset(seed=3)
    np.testing.assert_array_equal(observation, again)
    steps, ended = 0, False
    while not ended:
        action = int(np.flatnonzero(info["action_mask"])[-1])
        observation, _, terminated, truncated, info = made.step(action)
        assert made.observation_space.contains(observation)
        ended, steps = terminated or truncated, steps + 1
    assert truncated
    assert not terminated
    assert steps > 10


def play(fab: env.FabEnv, *choose: Any, steps: int = 400) -> list[tuple[Any, np.ndarray, float]]:
    """Episodes from key 0 under each way to choose, in one program: the last states, the sums of
    objectives, and of rewards."""
    params = fab.default_params

    @jax.jit
    def episode(which: jax.Array) -> Any:
        def body(carry: Any, _: Any) -> Any:
            state, total, rewards = carry
            over = fab.is_truncated(state, params)
            seen = fab.observe(None, state, None, params)
            action = jnp.stack([one(seen) for one in choose])[which]
            _, new, reward, _, info = fab.step_env(jax.random.key(0), state, action, params)
            keep = lambda x, y: jnp.where(over, x, y)  # noqa: E731
            state = jax.tree.map(keep, state, new)
            return (
                state,
                total + jnp.where(over, 0.0, info["objectives"]),
                rewards + jnp.where(over, 0.0, reward),
            ), None

        _, state = fab.reset_env(jax.random.key(0), params)
        start = (state, jnp.zeros(5), jnp.float32(0.0))
        return jax.lax.scan(body, start, length=steps)[0]

    played = jax.vmap(episode)(jnp.arange(len(choose)))
    found = []
    for i in range(len(choose)):
        state, total, rewards = jax.tree.map(lambda x, i=i: x[i], played)
        assert bool(fab.is_truncated(state, params))
        found.append((state, np.asarray(total), float(rewards)))
    return found


def by_the_rule(seen: env.Observation) -> jax.Array:
    """An action that names no lot: every group does what the rule would, by default FIFO."""
    return jnp.full(seen.active.shape, -1)


@pytest.mark.parametrize("one_at_a_time", [False, True])
def test_rewards_are_the_integrals(one_at_a_time: bool) -> None:
    """An episode under FIFO: the same fab as the simulator's, and its figures, objective by one."""
    fab = fabs(one_at_a_time=one_at_a_time)
    params = fab.default_params
    [(state, total, rewards)] = play(fab, by_the_rule)
    plan = describe.Plan(SMALL)
    window = figures.Window(jnp.int32(0), params.horizon)
    alone = sim.run(
        params.instance,
        rules.parse("FIFO"),
        sim.start(params.instance, jax.random.key(0)[None], window),
    )
    for x, y in zip(
        jax.tree.leaves(state.fab.figures), jax.tree.leaves(alone.figures), strict=True
    ):
        np.testing.assert_array_equal(x, y[0])
    found = figures.measure(plan, alone)
    horizon = float(params.horizon)
    lots, weight, rate, power, _ = np.asarray(params.reference)
    before = env.make_params(plan, 0.5)
    scale = float(before.scale)
    # The interval before the first choice belongs to no step; here it has no length.
    expected = {
        0: -found["wip"][0] * horizon / lots / scale,
        2: found["finished"][0] / rate / scale,
        4: found["utilisation"][0] * horizon / scale,
    }
    for i, value in expected.items():
        assert total[i] == pytest.approx(value, rel=1e-4), env.OBJECTIVES[i]
    # Overdue lots count from when they are due, also those still in the fab.
    lots_now = state.fab.lots
    leaving = np.asarray(lots_now.group) == 2
    until = np.where(leaving, np.minimum(lots_now.ready, horizon), horizon)
    late = np.maximum(until - np.maximum(lots_now.due, lots_now.release), 0) * lots_now.weight
    tardiness = float(alone.figures.weighted_tardiness.numpy().sum() + late.sum())
    assert total[1] == pytest.approx(-tardiness / (lots * weight) / scale, rel=1e-4)
    energy = found["energy_per_lot"][0] * found["finished"][0]
    hours = plan.seconds / 3600
    assert total[3] == pytest.approx(-energy / hours / power / scale, rel=1e-4)
    assert rewards == pytest.approx(float(params.weights @ total), rel=1e-4)
    whole = [
        env.episode_return(params, f) for f in (state.fab, jax.tree.map(lambda x: x[0], alone))
    ]
    assert whole == pytest.approx([rewards, rewards], rel=1e-4)


@pytest.mark.parametrize("releases", ["conwip", "open"])
def test_lots_gain_what_the_fab_does(releases: str) -> None:
    """Summed over lots and steps: the parts of the reward that are lots', each by itself."""
    description = SMALL | {"conwip": 12}
    if releases == "open":
        del description["conwip"]
        product = {**SMALL["products"]["a"], "release": {"mean": 22, "kind": "exponential"}}
        description |= {"slots": 60, "products": {"a": product}}
    fab = env.FabEnv(describe.Plan(description), days=20, warmup=1)
    lots, *_ = np.asarray(fab.default_params.reference)
    each = float(lots * fab.default_params.scale / fab.default_params.day)

    @jax.jit
    def sums(params: env.EnvParams) -> Any:
        def body(carry: Any, _: Any) -> Any:
            state, total = carry
            over = fab.is_truncated(state, params)
            nobody = jnp.full(state.active.shape, -1)
            seen, after, reward, _, _ = fab.step_env(jax.random.key(0), state, nobody, params)
            total = total + jnp.where(over, 0.0, jnp.stack([reward * each, seen.gains.sum()]))
            return (jax.tree.map(lambda x, y: jnp.where(over, x, y), state, after), total), None

        _, state = fab.reset_env(jax.random.key(0), params)
        return jax.lax.scan(body, (state, jnp.zeros(2)), length=3000)[0]

    stay = 0.0
    for i, name in enumerate(("cycle_time", "tardiness", "throughput")):
        params = fab.default_params.replace(weights=jnp.zeros(5).at[i].set(1.0))
        state, (rewards, gains) = sums(params)
        assert bool(fab.is_truncated(state, params))
        assert rewards != 0
        stay = float(rewards) if i == 0 else stay
        # Throughput is counted as time in the fab.
        expected = stay if name == "throughput" else float(rewards)
        # Of a lot that comes within a step, the time up to the step's end counts for none.
        assert gains == pytest.approx(expected, rel=0.03), name


def test_the_warm_up_is_the_rules() -> None:
    """An episode starts where the simulator is under the rule, and is measured from there."""
    fab = fabs(warmup=0.3, rule="SPT")
    params = fab.default_params
    warm = fab.warm(jax.random.key(0), params)
    window = figures.Window(jnp.int32(0), params.warmup)
    start = sim.start(params.instance, jax.random.key(0)[None], window)
    alone = sim.run(params.instance, rules.parse("SPT"), start)
    for x, y in zip(jax.tree.leaves(warm), jax.tree.leaves(alone), strict=True):
        x, y = _data(x), _data(y)[0]
        if x.dtype == np.float32:  # of two programs, of which one may round less often
            np.testing.assert_array_max_ulp(x, y, 1)
        else:
            np.testing.assert_array_equal(x, y)
    assert float(warm.figures.processing.as_float().sum()) > 0
    [(state, total, rewards)] = play(fab, by_the_rule)
    assert int(state.totals.tick) == int(params.horizon)
    # The rewards begin with the first choice, hardly after the warm-up.
    whole = env.episode_return(params, state.fab, warm)
    assert rewards == pytest.approx(float(whole), rel=0.03)
    assert total[2] > 0


def test_choices_are_obeyed() -> None:
    """Last in, first out through actions is the rule of that name."""
    fab = fabs()
    params = fab.default_params

    def last(seen: env.Observation) -> jax.Array:
        # Time waited is the third feature; hardly two lots ever come at the same tick.
        groups = jnp.arange(seen.active.shape[0])[:, None]
        here = (seen.group[None] == groups) & seen.options[None]
        return jnp.argmin(jnp.where(here, seen.lots[None, :, 2], jnp.inf), axis=1)

    [(state, _, _)] = play(fab, last)
    window = figures.Window(jnp.int32(0), params.horizon)
    start = sim.start(params.instance, jax.random.key(0)[None], window)
    alone = sim.run(params.instance, rules.parse("LIFO"), start)
    other = sim.run(params.instance, rules.parse("FIFO"), start)
    moves = np.asarray(state.fab.figures.cycle_time.low)
    np.testing.assert_array_equal(moves, np.asarray(alone.figures.cycle_time.low)[0])
    assert (moves != np.asarray(other.figures.cycle_time.low)[0]).any()


@pytest.mark.parametrize(
    "rule", [pytest.param("WSPT", marks=pytest.mark.slow), "setup > weight > CR"]
)
def test_the_preferred_lots_are_the_rules(rule: str) -> None:
    """Actions that take what the rule prefers, or none of them, are the rule."""
    fab = fabs(rule=rule)
    params = fab.default_params

    def preferred(seen: env.Observation) -> jax.Array:
        groups = jnp.arange(seen.active.shape[0])[:, None]
        mine = (seen.group[None] == groups) & (seen.preference[None] == 0)
        return jnp.argmax(mine, axis=1)

    window = figures.Window(jnp.int32(0), params.horizon)
    start = sim.start(params.instance, jax.random.key(0)[None], window)
    alone = sim.run(params.instance, rules.parse(rule), start)
    for state, _, _ in play(fab, preferred, by_the_rule):
        for x, y in zip(
            jax.tree.leaves(state.fab.figures), jax.tree.leaves(alone.figures), strict=True
        ):
            np.testing.assert_array_equal(x, y[0])


@pytest.mark.parametrize("rule", ["ATC(2)", "setup > weight > WSPT"])
def test_how_far_lots_are_behind(rule: str) -> None:
    """Preferences against a plain loop over groups and lots, in many states of the fab."""
    fab = fabs(rule=rule)
    params = fab.default_params
    observation, state = jax.jit(fab.reset_env)(jax.random.key(0), params)
    step = jax.jit(fab.step_env)
    several = apart = 0
    for i in range(60):
        queue = env._queue(params.instance, state.fab, state.times, state.active)
        keys = np.stack([np.asarray(k, np.float64) for k in fab.rule.rank(queue)], 1)
        order, options = np.asarray(queue.order), np.asarray(observation.options)
        wanted = np.full(len(order), -10.0)
        for group in range(2):
            lots = np.flatnonzero(options & (np.asarray(observation.group) == group))
            if not len(lots):
                continue
            best = min(lots, key=lambda lot: (*keys[lot], order[lot]))
            for lot in lots:
                tied = (keys[lot, :-1] == keys[best, :-1]).all()
                gap = keys[lot, -1] - keys[best, -1]
                wanted[lot] = max(-np.log(1.1 + gap), -10.0) if tied else -10.0
                apart += not tied
            wanted[best] = 0.0
            several += len(lots) > 1
        np.testing.assert_allclose(observation.preference, wanted, atol=1e-4)
        action = jnp.full(2, -1)  # as the rule does
        observation, state, *_ = step(jax.random.key(i), state, action, params)
    assert several > 20
    assert (apart > 5) == (rule != "ATC(2)")


def test_waiting() -> None:
    """A group that always waits starts nothing by choice; one that may not, ignores the wish."""
    wait = lambda seen: jnp.full(seen.active.shape, seen.group.shape[0])  # noqa: E731
    [(idle, _, _)] = play(fabs(may_wait=True), wait)
    (busy, _, _), (fifo, _, _) = play(fabs(), wait, by_the_rule)
    assert int(idle.fab.figures.moves.sum()) == 0
    for x, y in zip(jax.tree.leaves(busy), jax.tree.leaves(fifo), strict=True):
        np.testing.assert_array_equal(_data(x), _data(y))


def _data(x: Any) -> Any:
    return jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x
