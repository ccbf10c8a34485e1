"""The arithmetic of the comparison with others; what it measures is not tested here."""

import subprocess
import sys
from functools import partial

import numpy as np
import pytest

from benchmarks import hotspots, parts, scaling, throughput


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
        default = {"a2c": 1, "a3c": ours.get("num_workers"), "dqn": ours.get("num_gradient_steps")}
        batch = ours["num_envs"] * ours["num_steps"]
        each = default[case["algo"]]
    assert case["steps"] % batch == 0
    assert case["gradient_steps"] == case["steps"] // batch * each
    assert case["gradient_steps_per_update"] == each
    if "our_ppo" in case["sides"]:
        ppo = case["our_ppo"]
        assert ppo["num_envs"] * ppo["num_steps"] == batch
        assert ppo["num_epochs"] * ppo["num_minibatches"] == each
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


def test_all_of_the_gpus_script_runs_and_goes_on(tmp_path):
    words = ["benchmarks/gpu.sh", "--tiny", "--python", sys.executable, "--out", str(tmp_path)]
    run = partial(subprocess.run, cwd=throughput.ROOT, capture_output=True, text=True)
    done = run([*words, "ppo_4", "hotspots:fab"])
    assert done.returncode == 0, done.stdout
    case = parts.read(tmp_path / "throughput.json")["ppo_4"]
    assert case["steps"] == 512
    assert np.all(np.array(case["sides"]["ours"]["seconds"]) > 0)
    assert "commit" in case
    shares = [row["share"] for row in parts.read(tmp_path / "hotspots.json")["fab"]["operations"]]
    assert shares == sorted(shares, reverse=True)
    assert 0 < sum(shares) <= 1
    # What there is no time for is left for the next call, which leaves out what is there.
    assert run([*words, "--seconds", "0", "ppo_4"]).returncode == 3
    again = run([*words, "ppo_4"])
    assert (again.returncode, "steps/s" in again.stdout) == (0, False)


@pytest.mark.slow
def test_the_gpus_script_measures_everything(tmp_path):
    words = ["benchmarks/gpu.sh", "--tiny", "--python", sys.executable, "--out", str(tmp_path)]
    subprocess.run(words, check=True, cwd=throughput.ROOT)
    assert {"limit", *throughput.cases(2)} <= parts.read(tmp_path / "throughput.json").keys()
    assert {"ppo", "dqn", "fab"} <= parts.read(tmp_path / "hotspots.json").keys()
    assert "seed-10x50" in parts.read(tmp_path / "fab_speed.json")
    assert parts.read(tmp_path / "scaling.json").keys() == set(scaling.AXES)
    assert {"cold", "memory"} == parts.read(tmp_path / "cold.json").keys()


@pytest.mark.slow
def test_the_gpus_script_trains_a_policy_and_holds_it_against_another(tmp_path):
    words = ["benchmarks/gpu.sh", "--tiny", "--python", sys.executable, "--out", str(tmp_path)]
    subprocess.run([*words, "policy:open"], check=True, cwd=throughput.ROOT)
    found = parts.read(tmp_path / "fab_gpu_open.json")
    assert found["policies"].keys() == {"policy open", "policy fab-20x300-wait"}
    assert found["configs"] == 2
    assert "commit" in found


def test_events_inside_another_are_not_counted_with_it():
    events = [
        hotspots.Event("loop", 0.0, 10.0),
        hotspots.Event("call", 1.0, 6.0),
        hotspots.Event("add", 2.0, 1.0),
        hotspots.Event("add", 3.0, 2.0),
        hotspots.Event("copy", 10.0, 1.0),
    ]
    expected = [("loop", 4.0), ("call", 3.0), ("add", 1.0), ("add", 2.0), ("copy", 1.0)]
    assert hotspots.own_times(events) == expected
