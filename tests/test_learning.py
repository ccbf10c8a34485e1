"""Learners reach what their experiments promise."""

import json
import subprocess
import sys

import pytest

from benchmarks import curves

RUN = (
    "import pathlib, sys; from benchmarks import curves; "
    "name, seeds, folder, reports = sys.argv[1:]; "
    "experiment = curves.load().experiments[name]._replace(seeds=int(seeds)); "
    "sys.exit(curves.run(experiment, pathlib.Path(folder), int(reports)))"
)


def summary_of(name, seeds, folder, monkeypatch, reports=1):
    """In a process of its own, compiled as for users and not as for the other tests."""
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    words = [sys.executable, "-c", RUN, name, str(seeds), str(folder), str(reports)]
    subprocess.run(words, check=True)
    target = curves.load().experiments[name].target
    return json.loads((folder / "summary.json").read_text()), target


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if name not in ("a2c", "ppo") else [])
        for name in ("reinforce", "actor_critic", "a2c", "a3c", "ppo")
    ],
)
def test_solves_cartpole(name, tmp_path, monkeypatch):
    """The older two on average; A2C and PPO with every seed, A3C with every seed but one at most.

    One of some hundred seeds of A3C ends badly, and rounding, which differs between processors,
    decides which: none of seeds 1000 to 1199, but one of the ten here on one kind of them.
    """
    summary, target = summary_of(f"{name}_cartpole", 10, tmp_path / "run", monkeypatch)
    final = summary["final_return"]
    if name in ("a2c", "ppo"):
        assert min(final["per_seed"]) >= target
    elif name == "a3c":
        assert sorted(final["per_seed"])[1] >= target
    else:
        assert final["mean"] >= target


@pytest.mark.slow
def test_dqn_solves_cartpole_with_every_seed(tmp_path, monkeypatch):
    """Every seed gets there within the budget; one may be off again at its very end."""
    summary, target = summary_of("dqn_cartpole", 10, tmp_path / "run", monkeypatch, reports=20)
    assert summary["final_return"]["mean"] >= target
    assert None not in summary["steps_to_threshold"]["per_seed"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["a2c_acrobot", "dqn_acrobot", "ppo_acrobot", "a2c_pendulum", "ppo_pendulum"]
)
def test_reaches_its_target(name, tmp_path, monkeypatch):
    summary, target = summary_of(name, 10, tmp_path / "run", monkeypatch)
    assert summary["final_return"]["mean"] >= target
