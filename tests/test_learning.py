"""Learners reach what their experiments promise."""

import pytest

from benchmarks import learning


def final_returns(name, seeds, tmp_path):
    result = learning.run(name, seeds, tmp_path / "run", reports=1)
    return result["final_return"], result["target"]


def test_ppo_solves_cartpole_with_every_seed(tmp_path):
    final, target = final_returns("ppo_cartpole", 10, tmp_path)
    assert min(final["per_seed"]) >= target


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ppo_pendulum", "ppo_acrobot"])
def test_reaches_its_target(name, tmp_path):
    final, target = final_returns(name, 5, tmp_path)
    assert final["mean"] >= target
