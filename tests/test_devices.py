"""The command line on several devices, and in two processes on one machine."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rlax_lab import checkpoint
from rlax_lab.cli import main

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
REPORTS = 32
TRAIN = [
    *("train", "ppo", "--env", "CartPole-v1", "--parts", "2"),
    *("--normalize-observations", "--scale-rewards", "--hidden-sizes", "8"),
    *("--num-envs", "16", "--num-steps", "16", "--num-epochs", "2", "--num-minibatches", "2"),
    *("--total-steps", "8192", "--reports", str(REPORTS), "--eval-episodes", "4"),
    *("--checkpoint-seconds", "0"),
]
PATIENCE = 120  # seconds


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """A function that starts the command line where there are so many devices."""
    cache = str(tmp_path_factory.mktemp("xla"))
    processes = []

    def start(devices, *words):
        count = f"--xla_force_host_platform_device_count={devices}"
        environ = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "XLA_FLAGS": f"{count} --xla_backend_optimization_level=0",
            "JAX_COMPILATION_CACHE_DIR": cache,
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }
        command = [sys.executable, "-m", "rlax_lab", *map(str, words)]
        process = subprocess.Popen(
            command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.send_signal(signal.SIGKILL)
        process.communicate()


@pytest.fixture(scope="module")
def reference(start, tmp_path_factory):
    """A run in one process, on two devices."""
    folder = tmp_path_factory.mktemp("devices") / "run"
    out, _ = ended(start(2, *TRAIN, "--devices", "2", "--out", folder))
    assert f"Training ppo on CartPole-v1 on 2 devices in {folder}" in out
    return folder


def ended(process, code=0):
    """What a process wrote to stdout and stderr, once it has ended as it should."""
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == code, err
    return out, err


def metrics(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def assert_same_metrics(folder, reference):
    """The sums of two parts have no order, so that hardly anything can round otherwise."""
    got, want = metrics(folder), metrics(reference)
    assert len(got) == len(want) == REPORTS
    for line, expected in zip(got, want, strict=True):
        assert line == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_a_run_on_two_devices(reference, capsys):
    """Its folder is like any other, and says in how many parts it was, not on what devices."""
    record = json.loads((reference / "config.json").read_text())
    assert record["parts"] == 2
    assert "devices" not in record
    assert json.loads((reference / "summary.json").read_text())["env_steps"] == 8192
    assert main(["evaluate", str(reference), "--episodes", "8"]) == 0
    assert "ppo on CartPole-v1 after 8192 steps per seed" in capsys.readouterr().out


def test_resuming_on_another_number_of_devices(reference, start, tmp_path):
    """From two devices to one: the rest of the run is the same, and so are its parts."""
    folder = Path(shutil.copytree(reference, tmp_path / "run"))
    last = checkpoint.numbers(folder / "checkpoints")[-1]
    shutil.rmtree(folder / "checkpoints" / f"{last:012d}")
    again = [*TRAIN, "--out", folder, "--resume"]
    ended(start(2, *again, "--devices", "1"))
    assert_same_metrics(folder, reference)


def test_parts_must_agree_when_a_run_resumes(reference, capsys):
    words = ["train", "ppo", "--parts", "4", "--out", str(reference), "--resume"]
    assert main(words) == 2
    assert capsys.readouterr().err == (
        f"rlax-lab: {reference} was started with parts 2, not 4; a run resumes only under its own "
        "configuration.\n"
    )


# Two processes


@pytest.fixture
def both(start):
    """A function that starts two processes with one device each, which share a run."""

    def both(*words, second=()):
        with socket.socket() as free:
            free.bind(("localhost", 0))
            meet = f"localhost:{free.getsockname()[1]}"
        share = ["--processes", "2", "--coordinator", meet]
        return [
            start(1, *TRAIN, *words, *share, "--process", i, *(second if i else ()))
            for i in range(2)
        ]

    return both


def lines(folder):
    path = folder / "metrics.jsonl"
    return path.read_text().count("\n") if path.exists() else 0


def wait_for_lines(folder, count, process):
    deadline = time.monotonic() + PATIENCE
    while lines(folder) < count:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.01)


def test_two_processes_share_a_run(both, reference, tmp_path):
    """Killed and stopped on the way, it ends as in one process; who is left alone says so."""
    folder = tmp_path / "run"
    first, second = both("--out", folder)
    wait_for_lines(folder, 2, first)
    second.kill()
    _, err = ended(first, 1)
    assert "rlax-lab: process 0 cannot go on (" in err
    assert "Traceback" not in err, err

    processes = both("--out", folder, "--resume")
    wait_for_lines(folder, lines(folder) + 3, processes[0])
    processes[0].terminate()
    (out, _), _ = (ended(process, 128 + signal.SIGTERM) for process in processes)
    assert "Stopped at" in out
    assert lines(folder) < REPORTS

    (out, _), (quiet, _) = map(ended, both("--out", folder, "--resume"))
    assert f"Resuming ppo on CartPole-v1 on 2 devices in {folder}" in out
    assert "steps/s" not in quiet
    assert_same_metrics(folder, reference)
    assert not list(tmp_path.glob("run/**/*.partial"))
    assert main(["evaluate", str(folder), "--episodes", "8"]) == 0


def test_two_processes_refuse_together(both, reference, tmp_path):
    """Neither waits for the other, whatever it is that one of them cannot do."""
    for process in both("--out", reference):
        assert f"{reference} holds another run" in ended(process, 2)[1]
    for process in both("--out", tmp_path / "run", second=("--seed", "1")):
        said = "rlax-lab: process 1 was given something else than process 0; all need the same.\n"
        assert said in ended(process, 2)[1]
    for process in both("--out", tmp_path / "run", "--parts", "1"):
        assert "2 processes cannot share 1 seeds in 1 parts equally" in ended(process, 2)[1]
    assert not (tmp_path / "run").exists()
