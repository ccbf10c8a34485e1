"""An interrupted run ends as if it had never been interrupted, whatever interrupts it."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import gymnax
import jax
import numpy as np
import pytest

from rlax_lab import checkpoint, config, ppo, train
from rlax_lab.cli import main
from rlax_lab.errors import InputError

ROOT = Path(__file__).parents[1]
REPORTS, SEEDS, STEPS = 40, 2, 40_064
TRAIN = ["train", "ppo", "--env", "CartPole-v1"]
FLAGS = [
    *("--normalize-observations", "--scale-rewards", "--hidden-sizes", "16"),
    *("--num-envs", "8", "--num-steps", "8", "--num-epochs", "2", "--num-minibatches", "4"),
    *("--learning-rate", "1e-3", "--max-grad-norm", "0.5", "--objective", "clip"),
    *("--total-steps", "40010", "--reports", str(REPORTS), "--seeds", str(SEEDS)),
    *("--eval-episodes", "4", "--checkpoint-seconds", "0"),
]
# What depends on the clock, and the commit, which another process may make in the meantime.
VOLATILE = {"steps_per_second", "compile_seconds", "wall_seconds", "commit"}


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """The current directory of all runs of this module, which share a compilation cache."""
    return tmp_path_factory.mktemp("resume")


@pytest.fixture(scope="module")
def start(workspace):
    """A function that starts the command line in a process of its own, and returns the process."""
    environ = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "JAX_COMPILATION_CACHE_DIR": str(workspace / "xla"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    processes = []

    def start(*words, **variables):
        process = subprocess.Popen(
            [sys.executable, "-m", "rlax_lab", *words],
            cwd=workspace,
            env=environ | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def finish(start):
    """A function that runs the command line to its end, and returns what it writes to stderr."""

    def finish(*words):
        process = start(*words)
        _, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
        return err

    return finish


@pytest.fixture(scope="module")
def reference(workspace, finish):
    """A run that nothing interrupted. It comes first, so it compiles; the others read its cache."""
    finish(*TRAIN, *FLAGS, "--out", "reference")
    assert any((workspace / "xla").iterdir())
    return workspace / "reference"


@pytest.fixture(scope="module")
def shapes(reference):
    """The abstract states of the run."""
    record = json.loads((reference / "config.json").read_text())
    env, env_params = gymnax.make("CartPole-v1")
    learner = ppo.make(env, config.from_json(ppo.Config, record["config"]), env_params)
    return jax.eval_shape(jax.vmap(learner.init), train.seed_keys(0, SEEDS))


@pytest.fixture
def copy(reference, tmp_path):
    """A copy of the uninterrupted run, to be damaged."""
    return Path(shutil.copytree(reference, tmp_path / "copy"))


def lines(run):
    path = run / "metrics.jsonl"
    return path.read_text().count("\n") if path.exists() else 0


def wait(process, condition):
    """Waits until the condition holds, or the process is over."""
    deadline = time.monotonic() + 120
    while not condition() and process.poll() is None:
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.003)


def newest(run, age=0):
    """The folder of the newest checkpoint, or of the one `age` before it."""
    numbers = checkpoint.numbers(run / "checkpoints")
    return run / "checkpoints" / f"{numbers[-1 - age]:012d}"


def digest(path):
    return json.loads((path / "checkpoint.json").read_text())["digest"]


def snapshot(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def summary(run):
    whole = json.loads((run / "summary.json").read_text())
    assert whole.keys() >= VOLATILE
    return {name: value for name, value in whole.items() if name not in VOLATILE}


def leaves(run, shapes):
    """The number of the newest checkpoint, and the bytes of every array in it."""
    number, states, _ = checkpoint.restore(run / "checkpoints", shapes)
    named = jax.tree_util.tree_leaves_with_path(checkpoint.to_numpy(states))
    return number, {jax.tree_util.keystr(path): x.tobytes() for path, x in named}


def assert_same_end(run, reference, shapes):
    """Metrics, the last state and the summary are those of the uninterrupted run."""
    assert (run / "metrics.jsonl").read_bytes() == (reference / "metrics.jsonl").read_bytes()
    assert digest(newest(run)) == digest(newest(reference))
    assert leaves(run, shapes) == leaves(reference, shapes)
    assert summary(run) == summary(reference)


def test_reference_is_whole(reference, shapes):
    """The uninterrupted run reported everything, learned, and saved its last state."""
    records = [json.loads(line) for line in (reference / "metrics.jsonl").read_text().splitlines()]
    assert len(records) == REPORTS * SEEDS
    assert records[-1]["eval_return"] > 2 * records[0]["eval_return"]
    number, arrays = leaves(reference, shapes)
    assert number == records[-1]["update"] == STEPS // 64
    for part in (".params.network", ".params.moments", ".optimizer", ".env", ".reward_scale"):
        assert any(name.startswith(part) for name in arrays), part
    for part in (".key", ".steps.low", ".steps.high"):
        assert part in arrays


def test_killed_again_and_again(start, finish, workspace, reference, shapes):
    """SIGKILL at any moment of setup, compilation, training or saving loses nothing."""
    run = workspace / "killed"
    rng = random.Random(3)

    def importing(process):
        time.sleep(rng.uniform(0, 1))

    def saving_first(process):
        wait(process, (run / "checkpoints").exists)
        time.sleep(rng.uniform(0, 0.05))

    def compiling(process):
        process.stdout.readline()  # Training ... or Resuming ...
        time.sleep(rng.uniform(0, 0.5))

    def training(process):
        enough = lines(run) + SEEDS * rng.randint(1, 4)
        wait(process, lambda: lines(run) >= enough)
        time.sleep(rng.uniform(0, 0.1))

    killed = []
    for moment in (importing, saving_first, training, compiling, training):
        # Before there is a config.json there is no run to resume.
        resume = ["--resume"] if (run / "config.json").exists() else FLAGS
        process = start(*TRAIN, "--out", "killed", "--checkpoint-seconds", "0", *resume)
        moment(process)
        process.kill()
        process.communicate()
        killed.append((moment.__name__, process.returncode))
    assert killed.count(("training", -signal.SIGKILL)) >= 2, killed
    assert checkpoint.numbers(run / "checkpoints")[-1] > 0
    assert not (run / "summary.json").exists()

    finish(*TRAIN, "--out", "killed", "--resume")
    assert_same_end(run, reference, shapes)


def test_sigterm_and_ctrl_c(start, finish, workspace, reference, shapes):
    """Both save, say how to go on and exit as the shell expects; the same command goes on."""
    run = workspace / "stopped"
    command = [*TRAIN, *FLAGS, "--out", "stopped"]
    for number, code in ((signal.SIGTERM, 143), (signal.SIGINT, 130)):
        enough = lines(run) + SEEDS * 4
        process = start(*command)
        wait(process, lambda enough=enough: lines(run) >= enough)
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
        last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
        assert (process.returncode, err) == (code, "")
        assert "\nStopping at the next report, in about 0s; a second time" in out
        assert out.splitlines()[-1] == (
            f"Stopped at {last['env_steps']} steps and saved; the same command with --out stopped "
            "--resume goes on from there."
        )
        assert newest(run).name == f"{last['update']:012d}"
        assert last["env_steps"] < STEPS
        command = [*TRAIN, *FLAGS, "--out", "stopped", "--resume"]
    finish(*command)
    assert_same_end(run, reference, shapes)


def test_signals_amid_a_long_report(start, reference):
    """The first is answered though XLA computes, and the second ends the process."""
    process = start(*TRAIN, *FLAGS, "--total-steps", str(10**11), "--reports", "1", "--out", "long")
    assert process.stdout.readline().startswith("Training ppo")
    process.send_signal(signal.SIGTERM)
    assert process.stdout.readline().startswith("Stopping at the next report; a second time")
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 130


def test_finished_run_resumes_to_its_summary(finish, copy, reference, shapes):
    """There is nothing left to train: the same summary, metrics and checkpoints."""
    before = snapshot(copy / "checkpoints")
    (copy / "summary.json").unlink()
    finish(*TRAIN, "--out", str(copy), "--resume")
    assert_same_end(copy, reference, shapes)
    assert snapshot(copy / "checkpoints") == before


def test_damaged_run_resumes_to_the_same_end(finish, copy, reference, shapes):
    """Without its two newest checkpoints a run goes on from the third, and says so."""
    damaged = [newest(copy), newest(copy, 1)]
    (damaged[0] / "checkpoint.json").unlink()
    flip(arrays(damaged[1]))
    (copy / "summary.json").unlink()
    err = finish(*TRAIN, "--out", str(copy), "--resume")
    assert_warns(err.splitlines(), damaged)
    assert_same_end(copy, reference, shapes)


@pytest.mark.filterwarnings("always")
def test_all_damaged(copy, capsys):
    """A run without a whole checkpoint cannot be resumed, and stays as it is."""
    damaged = [newest(copy, age) for age in range(checkpoint.KEEP)]
    for path in damaged:
        cut(arrays(path))
    before = snapshot(copy)
    assert main([*TRAIN, "--out", str(copy), "--resume"]) == 2
    out, err = capsys.readouterr()
    *warned, last = err.splitlines()
    assert_warns(warned, damaged)
    assert last == f"rlax-lab: {copy}/checkpoints holds no usable checkpoint."
    assert out == ""
    assert snapshot(copy) == before


def assert_warns(lines, damaged):
    """There is one line for each damaged checkpoint, and nothing else."""
    assert len(lines) == len(damaged), lines
    for line, path in zip(lines, damaged, strict=True):
        assert line.startswith(f"rlax-lab: warning: checkpoint {path} is damaged (")
        assert line.endswith("); falling back to the one before")


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10
    path.write_bytes(content)


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def arrays(path):
    """The largest file with arrays in a checkpoint."""
    return max((path / "state").rglob("d/*"), key=lambda p: p.stat().st_size)


def empty(folder):
    shutil.rmtree(folder)
    folder.mkdir()


DAMAGE = {
    "never sealed": lambda path: (path / "checkpoint.json").unlink(),
    "seal cut": lambda path: cut(path / "checkpoint.json"),
    "seal empty": lambda path: (path / "checkpoint.json").write_text(""),
    "seal without digest": lambda path: (path / "checkpoint.json").write_text("{}"),
    "another's seal": lambda path: shutil.copy(
        path.parent / sorted(os.listdir(path.parent))[0] / "checkpoint.json", path
    ),
    "folder empty": empty,
    "state empty": lambda path: empty(path / "state"),
    "state missing": lambda path: shutil.rmtree(path / "state"),
    "arrays cut": lambda path: cut(arrays(path)),
    "arrays flipped": lambda path: flip(arrays(path)),
    "arrays missing": lambda path: arrays(path).unlink(),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_damaged_checkpoint_falls_back(copy, shapes, damage):
    """A damaged checkpoint is named in a warning, and the one before is restored."""
    path, before = newest(copy), newest(copy, 1)
    damage(path)
    with pytest.warns(UserWarning, match=f"^checkpoint {path} is damaged .*the one before$"):
        number, states, _ = checkpoint.restore(copy / "checkpoints", shapes)
    assert number == int(before.name)
    assert checkpoint.digest(checkpoint.to_numpy(states)) == digest(before)


@pytest.mark.parametrize("damage", [flip, cut])
def test_any_damaged_file(copy, shapes, damage):
    """Whichever file is damaged: either the exact state comes back, or the one before."""
    path, before = newest(copy), newest(copy, 1)
    fell_back = 0
    for file in sorted(p for p in (path / "state").rglob("*") if p.is_file()):
        content = file.read_bytes()
        if not content:
            continue
        damage(file)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            number, states, _ = checkpoint.restore(copy / "checkpoints", shapes)
        good = before if caught else path
        assert number == int(good.name), file
        assert checkpoint.digest(checkpoint.to_numpy(states)) == digest(good), file
        fell_back += bool(caught)
        file.write_bytes(content)
    assert fell_back >= 1


def test_save_keeps_what_it_saved(tmp_path):
    """Damaged checkpoints of later updates, which a fallback leaves, do not crowd out new ones."""
    state = {"x": np.arange(3.0, dtype=np.float32)}
    for number in (10, 20, 30):
        checkpoint.save(tmp_path, number, state, {})
    for number in (20, 30):
        (tmp_path / f"{number:012d}" / "checkpoint.json").unlink()
    (tmp_path / f"{40:012d}").mkdir()  # killed while it saved, before it dropped an old one
    with pytest.warns(UserWarning, match="is damaged"):
        assert checkpoint.restore(tmp_path, state)[0] == 10
    checkpoint.save(tmp_path, 11, {"x": state["x"] + 1}, {})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        number, restored, _ = checkpoint.restore(tmp_path, state)
    assert number == 11
    np.testing.assert_array_equal(restored["x"], [1.0, 2.0, 3.0])


def test_no_checkpoint(tmp_path):
    """Without any checkpoint there is one sentence."""
    with pytest.raises(InputError, match=f"^{tmp_path}/none holds no usable checkpoint.$"):
        checkpoint.restore(tmp_path / "none", {"x": np.zeros(1)})


@pytest.mark.parametrize(
    ("words", "clash"),
    [
        (["--learning-rate", "2e-3"], "learning_rate 0.001, not 0.002"),
        (["--num-envs", "16"], "num_envs 8, not 16"),
        (["--hidden-sizes", "16,16"], "hidden_sizes [16], not [16, 16]"),
        (["--no-normalize-observations"], "normalize_observations True, not False"),
        (["--objective", "kl_penalty"], "objective 'clip', not 'kl_penalty'"),
        (["--max-grad-norm", "none"], "max_grad_norm 0.5, not None"),
        (["--total-steps", "30000"], "total_steps 40010, not 30000"),
        (["--seeds", "3"], "seeds 2, not 3"),
        (["--seed", "1"], "seed 0, not 1"),
        (["--reports", "10"], "reports 40, not 10"),
        (["--eval-episodes", "5"], "eval_episodes 4, not 5"),
    ],
    ids=" ".join,
)
def test_other_configuration_is_refused(reference, capsys, words, clash):
    """Any field that differs is named with both values, and the folder stays as it is."""
    before = snapshot(reference)
    assert main([*TRAIN, "--out", str(reference), "--resume", *words]) == 2
    assert capsys.readouterr() == (
        "",
        f"rlax-lab: {reference} was started with {clash}; a run resumes only under its own "
        "configuration.\n",
    )
    assert snapshot(reference) == before


@pytest.mark.parametrize("hash_seed", ["0", "1"])
def test_other_environment_is_refused(start, reference, hash_seed):
    """The environment is named, not what follows from it, whatever the order of sets."""
    before = snapshot(reference)
    words = ["train", "ppo", "--env", "Acrobot-v1", "--out", "reference", "--resume"]
    process = start(*words, PYTHONHASHSEED=hash_seed)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (2, "")
    assert err == (
        "rlax-lab: reference was started with env 'CartPole-v1', not 'Acrobot-v1'; a run resumes "
        "only under its own configuration.\n"
    )
    assert snapshot(reference) == before


def test_other_algorithm_is_refused(copy, capsys):
    """The folder of another algorithm's run is refused."""
    record = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**record, "algo": "sarsa"}))
    assert main([*TRAIN, "--out", str(copy), "--resume"]) == 2
    assert capsys.readouterr() == (
        "",
        f"rlax-lab: {copy} was started with algo 'sarsa', not 'ppo'; a run resumes only under its "
        "own configuration.\n",
    )


def test_another_version_is_refused(copy, capsys):
    """A run that was started before there was some setting says so, and not that it was None."""
    record = json.loads((copy / "config.json").read_text())
    del record["config"]["gamma"]
    (copy / "config.json").write_text(json.dumps(record))
    assert main([*TRAIN, "--out", str(copy), "--resume"]) == 2
    assert capsys.readouterr() == (
        "",
        f"rlax-lab: {copy} was started by another version, without the setting gamma; a run "
        "resumes only in the version that it was started with.\n",
    )


def test_environment_that_changed_is_refused(copy, capsys):
    """A user's environment that has other shapes by now is not a damaged checkpoint."""
    env = "tests.probes:ConstantReward"  # as if the run had been started with its older version
    record = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**record, "env": env, "threshold": None}))
    before = snapshot(copy)
    assert main(["train", "ppo", "--env", env, "--out", str(copy), "--resume"]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert str(copy) in err
    assert "damaged" not in err
    assert snapshot(copy) == before


class Reached(Exception):
    """The run would have gone on from here."""


LEFT = {
    "nothing": [],
    "no checkpoint": ["checkpoints/"],
    "half a checkpoint": ["checkpoints/000000000000/state/"],
    "a checkpoint": ["checkpoints/000000000000/checkpoint.json"],
    "half a config": ["checkpoints/000000000000/checkpoint.json", "config.partial"],
}


@pytest.mark.parametrize("left", LEFT.values(), ids=LEFT.keys())
def test_killed_before_it_was_a_run(tmp_path, monkeypatch, left):
    """What a run leaves that was killed before its config.json is no obstacle to a new one."""
    run = tmp_path / "run"
    run.mkdir()
    for name in left:
        path = run / name
        (path if name.endswith("/") else path.parent).mkdir(parents=True, exist_ok=True)
        if not name.endswith("/"):
            path.write_text("{")

    def save(*_):
        raise Reached

    monkeypatch.setattr(checkpoint, "save", save)
    with pytest.raises(Reached):
        main([*TRAIN, *FLAGS, "--out", str(run)])
