"""What the measurements of scaling and of cold processes do with what they measured."""

import json
import sys

import pytest

from benchmarks import cold, cold_worker, scaling, throughput


@pytest.mark.parametrize("axis", scaling.AXES)
def test_work_of_an_axis(axis):
    for number in scaling.AXES[axis]:
        case = scaling.case(axis, number)
        ours = case["ours"]
        batch = ours["num_envs"] * ours["num_steps"]
        assert case["gradient_steps"] == case["steps"] // batch * 16
        assert case["gradient_steps"] >= 16
        given = {
            "environments": ours["num_envs"],
            "seeds": case.get("seeds", 1),
            "devices": case["devices"],
        }
        assert given[axis] == number


def test_a_picture_of_what_was_measured(tmp_path):
    row = {"steps_per_second": 2e5, "range": [1e5, 3e5]}
    result = {"seeds": {"by_number": {"1": row, "4": row}}, "devices": {"by_number": {"1": row}}}
    out = scaling.draw(result, tmp_path / "scaling.png")
    assert out.read_bytes().startswith(b"\x89PNG")


def test_the_worker_trains_a_window(tmp_path):
    found = cold.once(sys.executable, "ours", 0, cold_worker.WINDOW, "", str(tmp_path))
    assert found["prepared"] > 0
    assert found["seconds"] is None  # so soon nothing is solved
    assert any(tmp_path.iterdir())


def test_cold_processes_run_in_turns_each_with_its_cache(monkeypatch):
    asked = []

    def once(python, side, seed, steps, checkout, cache):
        asked.append((side, seed, cache.rpartition("/")[2]))
        return {"seconds": {"ours": 5.0, "purejaxrl": 20.0 + seed}[side], "prepared": 1.0}

    monkeypatch.setattr(cold, "once", once)
    found = cold.cold({"ours": "a", "purejaxrl": "b"}, "", 2, 1)["sides"]
    # The second is the run that fills the cache, and is not counted.
    assert asked == [
        ("ours", 0, "0"),
        ("ours", 0, "kept"),
        ("ours", 0, "kept"),
        ("purejaxrl", 0, "0"),
        ("ours", 1, "1"),
        ("ours", 1, "kept"),
        ("purejaxrl", 1, "1"),
    ]
    assert found["ours"]["ratio"] == {"median": 4.1, "low": 4.0, "high": 4.2}
    assert json.loads(json.dumps(found)) == found


def test_rounds_that_solved_nothing_have_no_ratio(monkeypatch):
    monkeypatch.setattr(cold, "once", lambda *_: {"seconds": None, "prepared": 1.0})
    found = cold.cold({"ours": "a", "purejaxrl": "b"}, "", 2, 1)["sides"]
    assert "ratio" not in found["ours"]


def test_the_long_run_is_of_ten_million_steps():
    batch = throughput.ppo_case(2048)["steps"]
    assert 38 * batch == pytest.approx(1e7, rel=0.01)
