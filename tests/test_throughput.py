"""The arithmetic of the comparison with others; what it measures is not tested here."""

import subprocess
import sys

import numpy as np
import pytest

from benchmarks import throughput


def test_a_ratio_is_taken_round_by_round():
    # The third round was slow for both.
    found = throughput.ratio([2.0, 3.0, 20.0], [1.0, 1.0, 10.0])
    assert found == {"median": 2.0, "low": 2.0, "high": 3.0}


def test_operations_of_an_update_by_hand():
    # A tower: 4 x 64 without and 64 x 64 and 64 x n with the gradient of its input.
    tower = lambda n: 2 * (4 * 64 * 2 + 64 * 64 * 3 + 64 * n * 3)  # noqa: E731
    assert throughput.operations(10, throughput.products(4, 2)) == 10 * (tower(2) + tower(1))


@pytest.mark.parametrize("name", throughput.cases(2))
def test_all_sides_of_a_case_are_given_the_same_work(name):
    case = throughput.cases(2)[name]
    ours = case["ours"]
    if case["algo"] == "ppo":
        batch = ours["num_envs"] * ours["num_steps"]
        each = ours["num_epochs"] * ours["num_minibatches"]
    else:
        default = {"a2c": 1, "dqn": ours.get("num_gradient_steps")}
        batch = ours["num_envs"] * ours["num_steps"]
        each = default[case["algo"]]
    assert case["steps"] % batch == 0
    assert case["gradient_steps"] == case["steps"] // batch * each
    assert case["gradient_steps_per_update"] == each
    theirs = case.get("purejaxrl_config", {})
    if case["algo"] == "ppo" and "purejaxrl" in case["sides"]:
        names = ("NUM_ENVS", "NUM_STEPS", "UPDATE_EPOCHS", "NUM_MINIBATCHES")
        fields = ("num_envs", "num_steps", "num_epochs", "num_minibatches")
        assert [theirs[n] for n in names] == [ours[f] for f in fields]
    if "rejax" in case["sides"] and case["algo"] == "ppo":
        shared = ("num_envs", "num_steps", "num_epochs", "num_minibatches", "learning_rate")
        assert [case["rejax_config"][f] for f in shared] == [ours[f] for f in shared]


def test_shrinking_leaves_one_update():
    case = throughput.shrunk(throughput.cases(1)["dqn_as_rejax"])
    assert (case["steps"], case["gradient_steps"]) == (10, 5)


def test_an_unknown_case_is_named():
    words = [sys.executable, "benchmarks/throughput.py", "ppo_5"]
    done = subprocess.run(words, capture_output=True, text=True, cwd=throughput.ROOT)
    assert done.returncode == 2
    assert "there is no case 'ppo_5'" in done.stderr


@pytest.mark.slow
def test_our_side_runs_alone(tmp_path):
    out = tmp_path / "found.json"
    words = ["benchmarks/throughput.py", "ppo_4", "--tiny", "--rounds", "2", "--out", str(out)]
    subprocess.run([sys.executable, *words], check=True, cwd=throughput.ROOT)
    found = throughput.json.loads(out.read_text())
    assert found["cases"]["ppo_4"]["steps"] == 512
    assert np.all(np.array(found["cases"]["ppo_4"]["sides"]["ours"]["seconds"]) > 0)
    assert found["limit"]["seconds"] > 0
