"""Runs in parts, on one device and on several, against the whole in float64 or alone."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import gymnax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlax_lab import a2c, a3c, actor_critic, dqn, metrics, ppo, reinforce, shards
from rlax_lab.errors import InputError
from rlax_lab.normalize import Moments, standardize
from tests import probes

ROOT = Path(__file__).parents[1]
CARTPOLE, CARTPOLE_PARAMS = gymnax.make("CartPole-v1")
ENVS = 8
COMMON = {"num_envs": ENVS, "num_steps": 6, "hidden_sizes": (8,), "total_steps": 480}
MODULES = {"ppo": ppo, "a2c": a2c, "reinforce": reinforce, "actor_critic": actor_critic, "dqn": dqn}
POLICY = {"normalize_observations": True, "scale_rewards": True, "max_grad_norm": None}
OPTIONS = {
    "ppo": POLICY | {"num_minibatches": 1, "num_epochs": 2},
    "a2c": POLICY,
    "reinforce": POLICY,
    "actor_critic": POLICY,
    "dqn": {
        "normalize_observations": True,
        "n_step": 3,
        "prioritized": True,
        "exploration_repeat": 2.0,
        "num_gradient_steps": 2,
        "batch_size": 32,
        "buffer_size": 256,
        "learning_starts": 90,
    },
}


def configure(name, **options):
    return MODULES[name].Config(**COMMON | OPTIONS[name] | options)


def spread(name, parts, env=CARTPOLE, env_params=CARTPOLE_PARAMS, **options):
    make = lambda config: MODULES[name].make(env, config, env_params)  # noqa: E731
    return shards.spread(make, configure(name, **options), parts)


def in_parts(f, parts, in_axes=0, out_axes=0):
    """`f` as each of the parts has it."""
    return jax.vmap(f, in_axes, out_axes, axis_name=shards.PARTS, axis_size=parts)


def on_devices(f, devices):
    """`f` of arguments ``[parts, ...]``, the parts as the devices have them."""
    each = jax.vmap(jax.vmap(f, axis_name=shards.PARTS), axis_name=shards.DEVICES)

    def whole(x):
        y = each(x.reshape(devices, -1, *x.shape[1:]))
        return y.reshape(x.shape[0], *y.shape[2:])

    return whole


# What parts share, and what each has of its own


def test_alone_nothing_changes():
    """Without parts, a mean and a key are what was given."""
    tree, key = {"a": jnp.arange(3.0), "b": 2}, jax.random.key(0)
    assert shards.mean(tree) is tree
    assert shards.own(key) is key
    assert shards.agree(tree) is tree
    assert shards.place(tree, None) is tree
    assert shards.over_seeds(len, None) is len


@pytest.mark.parametrize("devices", [1, 2, 4, 8])
def test_means_and_keys_do_not_depend_on_the_devices(devices):
    """Over all parts of all devices; the key of a part is its own, wherever that is."""
    x = np.arange(24.0, dtype=np.float32).reshape(8, 3) ** 2
    np.testing.assert_allclose(on_devices(shards.mean, devices)(x), [np.mean(x, 0)] * 8, rtol=1e-6)
    both = lambda x: jnp.stack(shards.mean((x[0] / 3, x.astype(jnp.int32)[1])))  # noqa: E731
    want = np.mean([x[:, 0] / 3, np.floor(x[:, 1])], axis=1)
    np.testing.assert_allclose(on_devices(both, devices)(x), [want] * 8, rtol=1e-6)
    number = lambda _: jax.random.key_data(shards.own(jax.random.key(1)))  # noqa: E731
    keys = on_devices(number, devices)(x)
    np.testing.assert_array_equal(keys, on_devices(number, 1)(x))
    assert len({*map(bytes, np.asarray(keys)), bytes(jax.random.key_data(jax.random.key(1)))}) == 9


def some(rng, shape, share):
    """Random numbers, and which of them count: in some parts none at all."""
    x = rng.normal(3.0, 2.0, shape).astype(np.float32)
    where = (rng.random(shape) < share) & (rng.random((shape[0], 1, 1)) < 0.7)
    return x, where


@settings(max_examples=15)
@given(
    parts=st.integers(1, 5),
    rows=st.sampled_from([1, 6]),
    share=st.sampled_from([None, 0.1, 0.5, 1.0]),
    seed=st.integers(0, 2**16),
)
def test_mean_and_deviation_are_those_of_all_parts(parts, rows, share, seed):
    """Also where parts have different numbers of entries that count, and where none does."""
    x, where = some(np.random.default_rng(seed), (parts, rows, 4), share or 0.0)
    if share is None:
        mean = in_parts(shards.mean_of, parts, out_axes=None)(x)
        got, where = in_parts(standardize, parts)(x), np.ones(x.shape, bool)
    else:
        mean = in_parts(shards.mean_of, parts, out_axes=None)(x, where)
        got = in_parts(standardize, parts)(x, where)
    counting = np.float64(x)[where]
    if not counting.size:
        assert mean == 0
        return
    np.testing.assert_allclose(mean, counting.mean(), rtol=1e-5, atol=1e-5)
    if counting.size > 1:
        want = (counting - counting.mean()) / counting.std()
        np.testing.assert_allclose(np.asarray(got)[where], want, rtol=1e-3, atol=1e-4)


@settings(max_examples=15)
@given(
    parts=st.integers(1, 5),
    sizes=st.lists(st.sampled_from([1, 4, 9]), min_size=1, max_size=3),
    seed=st.integers(0, 2**16),
)
def test_moments_are_those_of_all_parts(parts, sizes, seed):
    """Of all batches one after the other; every part has them, as of its own number of examples."""
    rng = np.random.default_rng(seed)
    offset = rng.normal(size=(parts, 1, 1))  # parts differ by more than chance
    batches = [(offset + rng.normal(size=(parts, n, 2))).astype(np.float32) for n in sizes]
    include = in_parts(Moments.include, parts, in_axes=(None, 0), out_axes=None)
    moments = Moments.like(jnp.zeros(2))
    for batch in batches:
        moments = include(moments, batch)
    assert moments.total == sum(sizes)
    everything = np.concatenate([np.float64(b).reshape(-1, 2) for b in batches])
    np.testing.assert_allclose(moments.mean, everything.mean(0), rtol=1e-5, atol=1e-5)
    want = np.maximum(everything.std(0), 1e-4)
    np.testing.assert_allclose(moments.std(), want, rtol=1e-3, atol=1e-5)


# Learners in parts


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize("parts", [2, 8])
def test_a_learner_in_parts_is_as_large_as_the_whole(name, parts):
    """As many steps, updates and environments; what is learnt is there once, not in every part."""
    whole, learner = spread(name, 1), spread(name, parts)
    assert (whole.parts, learner.parts) == (1, parts)
    for field in ("steps_per_update", "total_steps", "initial_steps", "num_updates"):
        assert getattr(learner, field) == getattr(whole, field), field
    key = jax.random.key(0)
    one, several = jax.eval_shape(whole.init, key), jax.eval_shape(learner.init, key)
    assert several.params == one.params
    count = lambda state: sum(x.size for x in jax.tree.leaves(envs(state)))  # noqa: E731
    assert count(several) == count(one)
    after, sums = jax.eval_shape(learner.update, several)
    assert after == several
    assert {k: x.shape for k, x in sums.items()} == dict.fromkeys(sums, ())


def acting(state):
    """The part of a state that holds the environments, if any do: REINFORCE's start anew."""
    return getattr(state, "actors", state)


def envs(state):
    return getattr(acting(state), "env", None)


@pytest.mark.parametrize(
    "name",
    ["ppo", *(pytest.param(name, marks=pytest.mark.slow) for name in MODULES if name != "ppo")],
)
def test_parts_see_environments_of_their_own(name):
    """They start from the parameters of the whole, act by themselves, and learn as one."""
    learner = spread(name, 4)
    state = jax.jit(learner.init)(jax.random.key(0))
    whole = jax.jit(spread(name, 1).init)(jax.random.key(0))
    same = lambda x, y: np.testing.assert_array_equal(x, y)  # noqa: E731
    jax.tree.map(same, state.params.network, whole.params.network)

    def distinct(state):
        keys = np.asarray(jax.random.key_data(state.key))
        assert len(np.unique(keys, axis=0)) == 4
        if name != "reinforce":
            seen = np.asarray(envs(state).observation).reshape(ENVS, -1)
            assert len(np.unique(seen, axis=0)) == ENVS

    distinct(state)
    after, sums = jax.jit(learner.update)(state)
    distinct(after)
    moved = jax.tree.map(lambda x, y: np.any(x != y), after.params, state.params)
    assert all(jax.tree.leaves(moved))
    assert all(np.shape(x) == () and np.isfinite(x) for x in sums.values())


class Clockwork(probes.Probe):
    """Six steps, with nothing drawn: only when an environment began tells it from another."""

    steps = 6

    def show(self, state):
        return jnp.stack([jnp.sin(state.time), 5.0 + jnp.cos(2.0 * state.time)])

    def pay(self, state, action, params):
        return 3.0 + jnp.cos(state.time)

    def observation_space(self, params=None):
        return probes.spaces.Box(low=-10.0, high=10.0, shape=(2,))


def begun(state, times, env):
    """A learner's state whose environments began at different times."""
    before = envs(state)
    inner = before.state.replace(time=times.reshape(before.state.time.shape))
    show = jax.vmap(env.show) if times.ndim == 1 else jax.vmap(jax.vmap(env.show))
    begun = acting(state)._replace(env=before._replace(state=inner, observation=show(inner)))
    return state._replace(actors=begun) if hasattr(state, "actors") else begun


@pytest.mark.parametrize(
    "name",
    ["ppo", *(pytest.param(name, marks=pytest.mark.slow) for name in ("a2c", "actor_critic"))],
)
def test_where_nothing_is_drawn_parts_are_the_whole(name):
    """Values, running statistics and metrics after four updates are those of one part.

    Only actions are drawn, and those neither change what follows nor, with towers apart, what
    values are learnt. Float32: after four updates of Adam, 1e-4.
    """
    env = Clockwork()
    times = jnp.array([0, 1, 2, 3, 4, 5, 1, 3], jnp.int32)
    after = {}
    for parts in (1, 4):
        learner = spread(name, parts, env, env.default_params, shared_torso=False)
        state = jax.jit(learner.init)(jax.random.key(0))
        state = begun(state, times if parts == 1 else times.reshape(parts, -1), env)
        update, total = jax.jit(learner.update), []
        for _ in range(4):
            state, sums = update(state)
            total.append(sums)
        sums = metrics.means(jax.tree.map(lambda *x: np.sum(x), *total))
        x = jnp.stack(jnp.meshgrid(jnp.linspace(-1, 1, 5), jnp.linspace(4, 6, 5)), -1)
        moments = state.params.moments, acting(state).reward_scale.moments
        after[parts] = {
            "value": learner.value(state.params, x.reshape(-1, 2)),
            "mean": [m.mean for m in moments],
            "std": [m.std() for m in moments],
            **{k: sums[k] for k in ("episodes", "episode_return", "episode_length", "value_loss")},
        }
    assert after[1]["episodes"] > 0
    close = lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-4)  # noqa: E731
    jax.tree.map(close, after[4], after[1])


@pytest.mark.slow
@pytest.mark.parametrize("name", MODULES)
def test_parts_learn(name):
    """The right action for each observation, and its value, in four parts."""
    env = probes.ObservationActionReward()
    rates = {"learning_rate": 1e-2} if name != "actor_critic" else {}
    options = {"total_steps": 2**15, "num_steps": 8, **rates}
    learner = spread(name, 4, env, env.default_params, **options)
    run = lambda _, state: learner.update(state)[0]  # noqa: E731
    state = jax.jit(lambda s: jax.lax.fori_loop(0, learner.num_updates, run, s))(
        jax.jit(learner.init)(jax.random.key(0))
    )
    see = jnp.asarray(env.observations)
    np.testing.assert_array_equal(learner.act(state.params, see), env.best_action(see))


def sentence(make):
    """What it is refused with."""
    with pytest.raises(InputError) as caught:
        make()
    message = str(caught.value)
    assert message.endswith(".")
    assert ". " not in message
    return message


def test_a3c_has_one_part():
    make = lambda config: a3c.make(CARTPOLE, config, CARTPOLE_PARAMS)  # noqa: E731
    assert sentence(lambda: shards.spread(make, a3c.Config(num_envs=16), 2)) == (
        "parts is 2, but this algorithm runs in one part only."
    )
    assert shards.spread(make, a3c.Config(num_envs=16), 1).parts == 1


@pytest.mark.parametrize(
    ("name", "parts", "options", "field", "value", "nearest"),
    [
        ("ppo", 3, {}, "num_envs", 8, 2),
        ("ppo", 7, {}, "num_envs", 8, 8),
        ("a2c", 100, {}, "num_envs", 8, 8),
        ("dqn", 8, {"batch_size": 36}, "batch_size", 36, 9),
        ("dqn", 4, {"buffer_size": 270}, "buffer_size", 270, 3),
    ],
)
def test_parts_that_do_not_divide(name, parts, options, field, value, nearest):
    """The nearest number that does is named."""
    assert sentence(lambda: spread(name, parts, **options)) == (
        f"parts is {parts}, which does not divide {field} = {value}; the nearest number that does "
        f"is {nearest}."
    )


# Dealing seeds and parts to devices


@pytest.fixture
def machine(monkeypatch):
    """A function that pretends there are so many devices in each of several processes."""

    def pretend(*counts):
        devices = [
            SimpleNamespace(process_index=p, id=(p, i))
            for p, n in enumerate(counts)
            for i in range(n)
        ]
        monkeypatch.setattr(jax, "process_count", lambda: len(counts))
        monkeypatch.setattr(jax, "devices", lambda: devices)
        monkeypatch.setattr(shards, "Mesh", lambda grid, names, axis_types: grid)

    return pretend


DEALT = [
    # devices of each process, seeds, parts, devices asked for, devices of seeds x of parts
    ([1], 10, 4, None, None),
    ([8], 1, 1, None, None),
    ([8], 4, 8, 1, None),
    ([8], 1, 8, None, (1, 8)),
    ([8], 1, 8, 2, (1, 2)),
    ([8], 4, 1, None, (4, 1)),
    ([8], 10, 1, None, (5, 1)),
    ([8], 4, 1, 2, (2, 1)),
    ([8], 2, 2, None, (2, 2)),
    ([8], 2, 2, 2, (2, 1)),
    ([8], 6, 4, None, (2, 4)),
    ([4, 4], 1, 2, None, (1, 2)),
    ([4, 4], 3, 2, None, (3, 2)),
    ([4, 4], 8, 1, None, (8, 1)),
    ([2, 2, 2], 3, 1, None, (3, 1)),
]


@pytest.mark.parametrize(("counts", "seeds", "parts", "devices", "want"), DEALT)
def test_deal(machine, counts, seeds, parts, devices, want):
    """As many devices as can have equally much, as many of each process, no device twice."""
    machine(*counts)
    grid = shards.deal(seeds, parts, devices)
    if want is None:
        assert grid is None
        return
    assert grid.shape == want
    ids = [device.id for device in grid.flat]
    assert len(set(ids)) == len(ids)
    for process in range(len(counts)):
        assert sum(p == process for p, _ in ids) == len(ids) / len(counts)


@given(seeds=st.integers(1, 12), parts=st.integers(1, 12), available=st.integers(1, 12))
def test_deal_uses_as_many_devices_as_can_be(seeds, parts, available):
    """Any way to cut them into a grid was thought of."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "devices", lambda: [SimpleNamespace(process_index=0)] * available)
        patch.setattr(shards, "Mesh", lambda grid, names, axis_types: grid)
        grid = shards.deal(seeds, parts)
    by_seed, by_part = (1, 1) if grid is None else grid.shape
    assert seeds % by_seed == 0
    assert parts % by_part == 0
    sides = [(s, d) for s in range(1, seeds + 1) for d in range(1, parts + 1)]
    fit = [s * d for s, d in sides if seeds % s == 0 and parts % d == 0 and s * d <= available]
    assert by_seed * by_part == max(fit)


UNDEALT = [
    ([8], 1, 8, 9, "devices is 9, but must be at most 8."),
    (
        [8],
        1,
        8,
        3,
        "devices is 3, but 1 seeds in 8 parts cannot be dealt equally to so many; the nearest "
        "number is 2.",
    ),
    (
        [8],
        3,
        1,
        8,
        "devices is 8, but 3 seeds in 1 parts cannot be dealt equally to so many; the nearest "
        "number is 3.",
    ),
    (
        [4, 4],
        1,
        8,
        1,
        "devices is 1, but 1 seeds in 8 parts cannot be dealt equally to so many; the nearest "
        "number is 2.",
    ),
    (
        [1, 1],
        1,
        1,
        None,
        "2 processes cannot share 1 seeds in 1 parts equally; give --parts 2.",
    ),
    ([2, 4], 1, 2, None, "the processes have 2, 4 devices, but must have equally many."),
]


@pytest.mark.parametrize(("counts", "seeds", "parts", "devices", "said"), UNDEALT)
def test_what_cannot_be_dealt(machine, counts, seeds, parts, devices, said):
    machine(*counts)
    assert sentence(lambda: shards.deal(seeds, parts, devices)) == said


def test_processes_refuse_together(monkeypatch):
    """One that was refused, or given something else, holds all of them back."""

    def fine():
        pass

    def bad():
        raise InputError("the folder is full.")

    shards.together(fine, {"seed": 1})
    assert sentence(lambda: shards.together(bad, {"seed": 1})) == "the folder is full."

    def of_others(change):
        """Three processes, of which the second says something else than this one."""
        monkeypatch.setattr(jax, "process_count", lambda: 3)
        gather = lambda x: np.stack([x, change(x), x])  # noqa: E731
        monkeypatch.setattr(shards.multihost_utils, "process_allgather", gather)

    of_others(lambda x: x)
    shards.together(fine, {"seed": 1})
    of_others(lambda x: np.array([1, x[1]]))
    said = "process 1 cannot start, and says why."
    assert sentence(lambda: shards.together(fine, {"seed": 1})) == said
    assert sentence(lambda: shards.together(bad, {"seed": 1})) == "the folder is full."
    of_others(lambda x: np.array([0, x[1] + 1]))
    said = "process 1 was given something else than process 0; all need the same."
    assert sentence(lambda: shards.together(fine, {"seed": 1})) == said


# Several devices


def results(path):
    with np.load(path) as arrays:
        return dict(arrays)


@pytest.mark.parametrize(
    ("name", "seeds", "parts", "devices"),
    [
        ("ppo", 2, 4, [1, 8]),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in [
                ("ppo", 1, 8, [1, 2, 8]),
                ("ppo", 4, 1, [1, 2]),
                ("ppo", 2, 2, [1, 4]),
                *((name, 2, 8, [1, 8]) for name in MODULES if name != "ppo"),
            ]
        ),
    ],
)
def test_devices_do_not_change_results(name, seeds, parts, devices, tmp_path):
    """Two updates, and one more from where they were saved, are the same on 1 device and on more.

    Only the order of sums differs, by a few roundings: at most 1e-4 of numbers of order 1 after
    three updates. (Later an action may fall otherwise, and no number is the same any more.)
    """
    flags = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "XLA_FLAGS": flags}
    words = [sys.executable, "-m", "tests.on_devices", tmp_path, name, seeds, parts, *devices]
    done = subprocess.run(map(str, words), env=environ, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    one, one_later = results(tmp_path / "1.npz"), results(tmp_path / "1_later.npz")
    assert any(np.any(one[k] != one_later[k]) for k in one if ".params" in k)
    same = {f"{n}.npz": one for n in devices[1:]}
    same |= {f"{n}_later.npz": one_later for n in [*devices[1:], "moved"]}
    for file, want in same.items():
        got = results(tmp_path / file)
        assert got.keys() == want.keys()
        for where, x in got.items():
            np.testing.assert_allclose(x, want[where], rtol=1e-4, atol=1e-4, err_msg=where)
