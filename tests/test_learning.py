"""Learners reach what their experiments promise."""

import json
import subprocess
import sys

import pytest

from benchmarks import learning

RUN = (
    "import json, pathlib, sys; from benchmarks import learning; "
    "learning.run(sys.argv[1], int(sys.argv[2]), pathlib.Path(sys.argv[3]), reports=1)"
)


def final_returns(name, seeds, folder, monkeypatch):
    """In a process of its own, compiled as for users and not as for the other tests."""
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    subprocess.run([sys.executable, "-c", RUN, name, str(seeds), str(folder)], check=True)
    summary = json.loads((folder / "summary.json").read_text())
    return summary["final_return"], learning.EXPERIMENTS[name].target


@pytest.mark.parametrize("name", ["reinforce", "actor_critic", "a2c", "a3c", "ppo"])
def test_solves_cartpole(name, tmp_path, monkeypatch):
    """A2C, A3C and PPO with every seed, the older two on average."""
    final, target = final_returns(f"{name}_cartpole", 10, tmp_path / "run", monkeypatch)
    assert final["mean"] >= target
    if name in ("a2c", "a3c", "ppo"):
        assert min(final["per_seed"]) >= target


@pytest.mark.slow
def test_dqn_solves_cartpole_with_every_seed(tmp_path, monkeypatch):
    final, target = final_returns("dqn_cartpole", 10, tmp_path / "run", monkeypatch)
    assert min(final["per_seed"]) >= target


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["a2c_acrobot", "dqn_acrobot", "ppo_acrobot", "a2c_pendulum", "ppo_pendulum"]
)
def test_reaches_its_target(name, tmp_path, monkeypatch):
    final, target = final_returns(name, 5, tmp_path / "run", monkeypatch)
    assert final["mean"] >= target
