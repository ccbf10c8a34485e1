"""What a run leaves behind, how it stops on NaN, and the outer loop and evaluation beneath it."""

import functools
import json
import math
import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import gymnax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlax_lab import checkpoint, evaluate, plots, ppo, train
from rlax_lab.cli import main
from rlax_lab.errors import NonFiniteError
from rlax_lab.types import Counter, Learner
from tests.probes import NEVER, Params, Probe

ROOT = Path(__file__).parents[1]
REPORTS, SEEDS = 4, 2
CARTPOLE = [
    *("train", "ppo", "--env", "CartPole-v1"),
    *("--num-envs", "8", "--num-steps", "8", "--num-epochs", "1", "--num-minibatches", "2"),
    *("--hidden-sizes", "8", "--total-steps", "1e3", "--reports", "4"),
    *("--seeds", "2", "--eval-episodes", "4"),
]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run of two seeds."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    assert main([*CARTPOLE, "--out", str(folder)]) == 0
    return folder


def strict(text):
    """JSON as other programs read it: without NaN or Infinity."""

    def refuse(constant):
        raise ValueError(constant)

    return json.loads(text, parse_constant=refuse)


def records(folder):
    return [strict(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


# The run folder


def test_folder(run):
    """Exactly what is documented, and each of it what it says it is."""
    assert {path.name for path in run.iterdir()} == {
        *("config.json", "metrics.jsonl", "tensorboard", "checkpoints", "curve.png"),
        "summary.json",
    }
    assert (run / "curve.png").read_bytes().startswith(b"\x89PNG\r\n")
    assert checkpoint.numbers(run / "checkpoints")[-1] == 16


def test_config(run):
    """Everything that was asked for, and all defaults beside it."""
    record = strict((run / "config.json").read_text())
    config = record.pop("config")
    assert record == {
        "algo": "ppo",
        "env": "CartPole-v1",
        "threshold": 475.0,
        "seeds": SEEDS,
        "seed": 0,
        "reports": REPORTS,
        "eval_episodes": 4,
        "parts": 1,
    }
    asked = {"num_envs": 8, "num_steps": 8, "num_epochs": 1, "num_minibatches": 2}
    asked |= {"hidden_sizes": [8], "total_steps": 1000}
    fields = set(ppo.Config.__dataclass_fields__)
    assert config.keys() == fields
    assert {name: config[name] for name in asked} == asked
    rest = {name: getattr(ppo.Config(), name) for name in fields - asked.keys()}
    assert {name: config[name] for name in rest} == rest


def test_metrics(run):
    """One line per report and seed, in order, each with the same finite numbers."""
    lines = records(run)
    expected = [(update, seed) for update in (4, 8, 12, 16) for seed in range(SEEDS)]
    assert [(line["update"], line["seed"]) for line in lines] == expected
    names = lines[0].keys()
    assert names >= {"env_steps", "eval_return", "episode_return", "loss", "entropy", "kl"}
    for line in lines:
        assert line.keys() == names
        assert line["env_steps"] == 64 * line["update"]
        assert all(value is None or math.isfinite(value) for value in line.values())
        assert 1 <= line["eval_return"] <= 500
        assert 0 < line["entropy"] <= math.log(2) + 1e-6
    assert lines[0]["loss"] != lines[1]["loss"]


SUMMARY = {
    "algo": str,
    "env": str,
    "seeds": int,
    "env_steps": int,
    "final_return": dict,
    "steps_to_threshold": dict,
    "steps_per_second": float,
    "compile_seconds": float,
    "wall_seconds": float,
    "versions": dict,
    "hardware": dict,
    "commit": str | None,
    "config": dict,
}


def test_summary(run):
    """Every key with its type, and numbers that agree with the metrics."""
    summary = strict((run / "summary.json").read_text())
    assert summary.keys() == SUMMARY.keys()
    for name, kind in SUMMARY.items():
        assert isinstance(summary[name], kind), name
    assert (summary["algo"], summary["env"], summary["seeds"]) == ("ppo", "CartPole-v1", SEEDS)
    assert summary["env_steps"] == 1024
    assert summary["config"] == strict((run / "config.json").read_text())["config"]
    lines = records(run)
    last = [line["eval_return"] for line in lines[-SEEDS:]]
    final = summary["final_return"]
    assert final.keys() == {"iqm", "mean", "ci95", "per_seed"}
    assert final["per_seed"] == last
    assert final["mean"] == pytest.approx(np.mean(last))
    low, high = final["ci95"]
    assert min(last) <= low <= final["iqm"] <= high <= max(last)
    reached = summary["steps_to_threshold"]
    solved = [
        [line["env_steps"] for line in lines if line["seed"] == seed and line["eval_return"] >= 475]
        for seed in range(SEEDS)
    ]
    assert reached == {"threshold": 475.0, "per_seed": [min(x, default=None) for x in solved]}
    assert summary["steps_per_second"] > 0
    assert 0 < summary["compile_seconds"] < summary["wall_seconds"]
    assert summary["versions"].keys() >= {"python", "jax", "jaxlib", "flax", "optax", "gymnax"}
    assert summary["versions"]["jax"] == jax.__version__
    assert summary["hardware"]["platform"] == jax.default_backend()
    assert summary["hardware"]["device"] == jax.devices()[0].device_kind
    assert summary["hardware"]["cores"] == os.cpu_count()


def scalars(folder):
    """Every scalar in TensorBoard's event files, by tag and step."""
    from tensorboardX.proto.event_pb2 import Event

    found = {}
    for path in sorted(folder.iterdir()):
        content = path.read_bytes()
        while content:  # length, its checksum, an event, its checksum
            (length,) = struct.unpack("<Q", content[:8])
            event = Event.FromString(content[12 : 12 + length])
            content = content[16 + length :]
            for value in event.summary.value:
                found[value.tag, event.step] = value.simple_value
    return found


def test_tensorboard(run):
    """The events hold what the metrics hold, per seed, against environment steps."""
    found = scalars(run / "tensorboard")
    speeds = {step for tag, step in found if tag == "steps_per_second"}
    assert speeds == {256, 512, 768, 1024}
    expected = {
        (f"{name}/seed{line['seed']}", line["env_steps"]): value
        for line in records(run)
        for name, value in line.items()
        if name not in ("update", "env_steps", "seed") and value is not None
    }
    assert {key: x for key, x in found.items() if key[0] != "steps_per_second"} == pytest.approx(
        expected, rel=1e-6
    )


def test_equal_runs_write_equal_metrics(run, tmp_path):
    """Nothing in metrics.jsonl depends on the clock or the folder."""
    again = tmp_path / "again"
    assert main([*CARTPOLE, "--out", str(again)]) == 0
    assert (again / "metrics.jsonl").read_bytes() == (run / "metrics.jsonl").read_bytes()


def test_curve(run):
    """The run can be read back as a learning curve."""
    curve = plots.read_curve(run)
    np.testing.assert_array_equal(curve.steps, [256, 512, 768, 1024])
    assert curve.returns.shape == (REPORTS, SEEDS)
    assert curve.evaluated


# Training that diverges

NAN = [
    *("train", "ppo", "--env", "tests.probes:NaNReward", "--num-envs", "4", "--num-steps", "2"),
    *("--num-epochs", "1", "--num-minibatches", "1", "--hidden-sizes", "4"),
    *("--total-steps", "48", "--reports", "6", "--eval-episodes", "2"),
    *("--checkpoint-seconds", "0"),
]


@pytest.fixture(scope="module")
def diverged(tmp_path_factory):
    """A run whose second update sees the NaN reward of its environments' fourth step."""
    folder = tmp_path_factory.mktemp("nan") / "run"
    assert main([*NAN, "--seed", "7", "--out", str(folder)]) == 1
    return folder


def test_non_finite_stops_the_run(tmp_path, capsys):
    """One sentence names update and seed; the last good checkpoint is kept, no summary written."""
    folder = tmp_path / "run"
    assert main([*NAN, "--out", str(folder)]) == 1
    assert capsys.readouterr().err == (
        "rlax-lab: a loss or parameter of seed 0 became infinite or NaN in update 2; the last "
        f"good checkpoint, after update 1, is kept in {folder}.\n"
    )
    assert checkpoint.numbers(folder / "checkpoints") == [0, 1]
    assert [line["update"] for line in records(folder)] == [1]
    assert not (folder / "summary.json").exists()


def test_non_finite_names_the_seed_that_was_given(diverged, capsys):
    """With --seed 7 it is seed 7 that diverged; resuming, it does so again and changes nothing."""
    before = sorted(diverged.rglob("checkpoints/**/*"))
    assert main([*NAN, "--seed", "7", "--out", str(diverged), "--resume"]) == 1
    assert capsys.readouterr().err == (
        "rlax-lab: a loss or parameter of seed 7 became infinite or NaN in update 2; the last "
        f"good checkpoint, after update 1, is kept in {diverged}.\n"
    )
    assert sorted(diverged.rglob("checkpoints/**/*")) == before
    assert [line["update"] for line in records(diverged)] == [1]


@pytest.mark.filterwarnings("always")
def test_non_finite_names_a_good_checkpoint(diverged, tmp_path, capsys):
    """A later checkpoint that is half written is not the last good one."""
    folder = Path(shutil.copytree(diverged, tmp_path / "run"))
    (folder / "checkpoints" / "000000000003").mkdir()
    assert main([*NAN, "--seed", "7", "--out", str(folder), "--resume"]) == 1
    warned, last = capsys.readouterr().err.splitlines()
    assert "000000000003 is damaged" in warned
    assert "the last good checkpoint, after update 1," in last


# The outer loop, on a learner that counts


def made_of(init=None, update=None, steps_per_update=1, total_steps=1, act=None):
    return Learner(
        init=init,
        update=update,
        act=act,
        value=None,
        steps_per_update=steps_per_update,
        total_steps=total_steps,
    )


class Counting(NamedTuple):
    params: jax.Array
    count: jax.Array
    delay: jax.Array


def counting(updates, nan_at=NEVER, metric_nan_at=NEVER, steps_per_update=1):
    """A learner whose parameters, or one of its metrics, stop being finite in some update.

    The `delay` in its state postpones that.
    """

    def init(key):
        return Counting(jnp.float32(0), jnp.int32(0), jnp.int32(0))

    def update(state):
        count = state.count + 1
        params = jnp.where(count - state.delay >= nan_at, jnp.nan, state.params)
        loss = jnp.where(count - state.delay >= metric_nan_at, jnp.inf, 1.0)
        metrics = {"loss": loss, "updates": jnp.float32(1)}
        return Counting(params, count, state.delay), metrics

    return made_of(init, update, steps_per_update, updates * steps_per_update)


def start(learner, seeds=1):
    return jax.vmap(learner.init)(train.seed_keys(0, seeds))


@given(updates=st.integers(1, 300), reports=st.integers(1, 60))
def test_chunk_ends(updates, reports):
    """Reports end at the last update, as many as asked where there are as many, evenly apart."""
    ends = train.chunk_ends(counting(updates, steps_per_update=3), reports)
    assert ends[-1] == updates
    assert len(ends) == min(updates, reports)
    sizes = np.diff([0, *ends])
    assert sizes.min() >= 1
    assert sizes.max() - sizes.min() <= 1


@pytest.fixture(params=["side by side", "in turn"])
def seeds_go(request, monkeypatch):
    """How seeds are trained, whatever the length of an update says."""
    monkeypatch.setattr(train, "_in_turn", lambda _: request.param == "in turn")


@pytest.mark.usefixtures("seeds_go")
def test_train_yields_states_at_reports():
    """Each report comes with the state after just as many updates, and its own chunk's sums."""
    learner = counting(7, steps_per_update=5)
    seen = [
        (np.asarray(states.count), report)
        for states, report in train.train(learner, start(learner, seeds=2), reports=3)
    ]
    assert [report.update for _, report in seen] == [3, 5, 7]
    for counts, report in seen:
        np.testing.assert_array_equal(counts, [report.update] * 2)
    assert [report.env_steps for _, report in seen] == [15, 25, 35]
    chunks = [report.sums["updates"].tolist() for _, report in seen]
    assert chunks == [[3, 3], [2, 2], [2, 2]]


def test_train_goes_on_where_it_stopped():
    """From the middle of a chunk on, the reports are those of an uninterrupted run."""
    learner = counting(7)
    states = start(learner)
    for _ in range(4):
        states = jax.vmap(learner.update)(states)[0]
    reports = [r.update for _, r in train.train(learner, states, done=4, reports=3)]
    assert reports == [5, 7]
    assert not list(train.train(learner, start(learner), done=7, reports=3))


@pytest.mark.parametrize("what", ["nan_at", "metric_nan_at"])
@pytest.mark.parametrize(("first", "reports"), [(1, 1), (4, 1), (4, 2), (4, 8), (5, 3)])
def test_non_finite_update(what, first, reports):
    """Parameters and losses are watched in every update; good states were yielded before."""
    learner = counting(8, **{what: first})
    chunks = train.train(learner, start(learner), reports=reports)
    for end in train.chunk_ends(learner, reports):
        if end >= first:
            break
        states, report = next(chunks)
        assert report.update == end
        assert np.all(np.isfinite(states.params))
    with pytest.raises(NonFiniteError, match=rf"of seed 0 .* in update {first}$"):
        next(chunks)


@pytest.mark.usefixtures("seeds_go")
def test_non_finite_seed():
    """Of three seeds the one that diverged is named, with its own update."""
    learner = counting(8, nan_at=2)
    states = start(learner, seeds=3)._replace(delay=jnp.array([7, 4, 9]))
    with pytest.raises(NonFiniteError, match=r"of seed 1 .* in update 6$"):
        list(train.train(learner, states, reports=4))


def test_steps_beyond_32_bits():
    """Reports count environment steps exactly, however many."""
    learner = counting(5, steps_per_update=2**31 + 1)
    reports = [r.env_steps for _, r in train.train(learner, start(learner), reports=5)]
    assert reports == [i * (2**31 + 1) for i in range(1, 6)]


@pytest.mark.parametrize(
    ("backend", "steps", "want"),
    [("cpu", 40, False), ("cpu", 4096, False), ("cpu", 8192, True), ("gpu", 2**20, False)],
)
def test_which_seeds_go_in_turn(monkeypatch, backend, steps, want):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    assert train._in_turn(counting(1, steps_per_update=steps)) == want


# The outer loop, on PPO


@pytest.fixture(scope="module")
def learner():
    env, env_params = gymnax.make("CartPole-v1")
    sizes = {"num_envs": 4, "num_steps": 8, "num_epochs": 2, "num_minibatches": 2}
    config = ppo.Config(**sizes, hidden_sizes=(8,), total_steps=7 * 32, normalize_observations=True)
    return ppo.make(env, config, env_params)


@pytest.fixture(scope="module")
def chunk(learner):
    return train.advance(learner)


def trained(learner, chunk, *seeds, reports=3):
    first = jax.jit(jax.vmap(learner.init))(jnp.stack([jax.random.key(s) for s in seeds]))
    *_, (last, _) = train.train(learner, first, reports=reports, chunk=chunk)
    return checkpoint.to_numpy(last)


def test_in_turn_is_side_by_side(learner, chunk, monkeypatch):
    """Seeds in turn end where those that share their operations do, but for rounding."""
    monkeypatch.setattr(train, "_in_turn", lambda _: True)
    in_turn = trained(learner, train.advance(learner), 0, 1, 2)
    close = functools.partial(np.testing.assert_allclose, atol=2e-5, rtol=2e-5)
    jax.tree.map(close, in_turn, trained(learner, chunk, 0, 1, 2))


def leaves(tree):
    named = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): x for path, x in named}


def test_advance_compiles_once(learner, chunk, tmp_path):
    """Chunks of any length, of states new or restored, run the same program."""
    init = jax.vmap(learner.init)
    keys = train.seed_keys(0, 2)
    before = chunk._cache_size()
    reports = list(train.train(learner, jax.jit(init)(keys), reports=3, chunk=chunk))
    assert [report.update for _, report in reports] == [3, 5, 7]
    checkpoint.save(tmp_path, 7, reports[-1][0], {})
    restored = checkpoint.restore(tmp_path, jax.eval_shape(init, keys))[1]
    for n in (1, 4):
        restored = chunk(restored, jnp.int32(n))[0]
    assert chunk._cache_size() == before + 1
    np.testing.assert_array_equal(jax.vmap(Counter.as_float)(restored.steps), [12 * 32] * 2)


def test_equal_keys_train_equally(learner, chunk):
    """Two runs with one key are equal bit for bit, however they are cut; another key differs."""
    once, again, other = (
        leaves(trained(learner, chunk, *seeds, reports=reports))
        for seeds, reports in (((0, 1), 3), ((0, 1), 7), ((2, 3), 3))
    )
    assert {k: x.tobytes() for k, x in once.items()} == {k: x.tobytes() for k, x in again.items()}
    kernels = [name for name in once if "kernel" in name and name.startswith(".params")]
    assert kernels
    for name in kernels:
        assert not np.any(once[name] == other[name]), name


def test_vmapped_seed_is_the_seed_alone(learner, chunk):
    """Seeds that train side by side share nothing."""
    both = leaves(trained(learner, chunk, 5, 6))
    alone = leaves(trained(learner, train.advance(learner), 6))
    assert both.keys() == alone.keys()
    for name, x in alone.items():
        np.testing.assert_allclose(both[name][1:], x, rtol=1e-4, atol=1e-5, err_msg=name)


def test_seed_keys_depend_on_their_own_number():
    """The key of a seed is the same however many train beside it."""
    data = jax.random.key_data
    np.testing.assert_array_equal(data(train.seed_keys(3, 2)), data(train.seed_keys(2, 3))[1:])
    np.testing.assert_array_equal(data(train.seed_keys(3, 2))[0], data(jax.random.key(3)))


@pytest.mark.parametrize("boundary", [2**31, 2**32])
def test_learner_counts_beyond_32_bits(boundary):
    """A learner's own step counter goes on exactly past the ends of 32-bit integers."""
    env, env_params = gymnax.make("CartPole-v1")
    config = ppo.Config(
        num_envs=4,
        num_steps=4,
        num_minibatches=1,
        num_epochs=1,
        hidden_sizes=(4,),
        total_steps=2**33,
    )
    learner = ppo.make(env, config, env_params)
    before = boundary - 24
    low = jnp.uint32(before)
    state = learner.init(jax.random.key(0))._replace(steps=Counter(jnp.uint32(0), low))
    update = jax.jit(learner.update)
    for i in range(1, 4):
        state, sums = update(state)
        assert int(state.steps) == before + 16 * i
        assert all(np.all(np.isfinite(x)) for x in sums.values())
    assert float(state.steps.as_float()) == pytest.approx(boundary, rel=1e-6)


# Evaluation


class TwoLengths(Probe):
    """Episodes of 1 or of 9 steps, even odds, that pay 1 a step; nothing that acts can tell."""

    def draw(self, key):
        return jnp.where(jax.random.bernoulli(key), 9.0, 1.0)

    def show(self, state):
        return jnp.zeros(1)

    def step_env(self, *args):
        observation, state, reward, _, info = super().step_env(*args)
        return observation, state, reward, state.time >= state.signal, info


class Cut(TwoLengths):
    """The same, but the ninth step is never reached: a time limit of 4."""

    @property
    def default_params(self):
        return Params(max_steps_in_episode=4)


def idle(params, observation, key=None):
    return jnp.zeros(observation.shape[:-1], jnp.int32)


IDLE = made_of(act=idle)
EPISODES = 4096


def played(env, **kwargs):
    return jax.device_get(
        evaluate(IDLE, None, env, jax.random.key(0), EPISODES, env.default_params, **kwargs)
    )


def test_evaluation_counts_first_episodes_only():
    """Long and short episodes count as often as they start; whatever ends first would be short."""
    result = played(TwoLengths())
    assert result.finished.all()
    np.testing.assert_array_equal(result.episode_return, result.episode_length)
    assert set(result.episode_length.tolist()) == {1, 9}
    # Five standard deviations. Counting what ends first gives at most one long in ten.
    assert abs(np.mean(result.episode_length == 9) - 0.5) < 5 * 0.5 / math.sqrt(EPISODES)
    assert result.mean_return() == pytest.approx(np.mean(result.episode_return))


def test_evaluation_counts_truncated_episodes():
    """An episode that its environment's time limit ends is whole."""
    result = played(Cut())
    assert result.finished.all()
    assert set(result.episode_length.tolist()) == {1, 4}
    np.testing.assert_array_equal(result.episode_return, result.episode_length)


def test_evaluation_gives_up():
    """Episodes still running after `max_steps` are marked, and stay out of the mean."""
    whole, cut = played(TwoLengths()), played(TwoLengths(), max_steps=8)
    np.testing.assert_array_equal(cut.finished, whole.episode_length == 1)
    assert cut.mean_return() == 1
    np.testing.assert_array_equal(played(TwoLengths(), max_steps=9).finished, True)
    nothing = played(TwoLengths(), max_steps=0)
    assert not nothing.finished.any()
    assert np.isnan(nothing.mean_return())


# Importing


def test_import_is_cheap(tmp_path):
    """`import rlax_lab` loads none of what only the command line or environments need."""
    costly = ("matplotlib", "pandas", "gymnax", "orbax", "tensorboardX", "seaborn", "envs")
    code = f"import rlax_lab, sys; print([m for m in {costly} if m in sys.modules])"
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "[]\n"
