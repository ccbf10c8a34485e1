"""`rlax-lab fab value` against sums done by hand."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlax_lab import fab_value
from rlax_lab.cli import main

MONEY = ["--revenue", "365e6", "--wafer-value", "2000"]


@pytest.fixture
def evaluation(tmp_path: Path) -> Path:
    """Two fabs: under the rule 10 lots a day and 100 in the fab, under the policy 11 and 12."""
    rule = {
        "lots_per_day": [10.0, 10.0],
        "wip": [100.0, 100.0],
        "on_time": [0.8, 0.8],
        "energy_per_lot": [500.0, 500.0],
    }
    policy = {
        "lots_per_day": [11.0, 12.0],
        "wip": [90.0, 80.0],
        "on_time": [0.9, 1.0],
        "energy_per_lot": [400.0, 400.0],
    }
    found = {"FIFO": rule, "EDD": policy, "policy agents": policy}
    raw: dict[str, Any] = {
        f"{n}/{f}": np.array(x) for n, each in found.items() for f, x in each.items()
    }
    np.savez(tmp_path / "configurations.npz", **raw)
    summary = {
        "configs": 2,
        "best_rule": "EDD",
        "policies": {"policy agents": {}},
        "figures": {name: {} for name in found},
    }
    (tmp_path / "evaluation.json").write_text(json.dumps(summary))
    return tmp_path


def test_value_by_hand(evaluation: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["fab", "value", str(evaluation), *MONEY, "--against", "FIFO", "--margin", "0.4"]
    words += ["--sold", "0.5", "--late-penalty", "0.1", "--capital-cost", "0.2"]
    assert main([*words, "--project-cost", "2e6", "--yearly-cost", "1e6"]) == 0
    found = json.loads((evaluation / "value.json").read_text())
    # A lot's price is 365e6 / 3650 = 100,000; 25 wafers in process hold 50,000.
    parts = {name: part["mean"] for name, part in found["parts"].items()}
    assert parts == pytest.approx(
        {
            "additional lots": 365 * 1.5 * 100_000 * 0.4 * 0.5,
            "capital in process": 15 * 50_000 * 0.2,
            # 2 late lots a day before, then 1.1 and none.
            "lots on time": (0.9 + 2.0) / 2 * 365 * 100_000 * 0.1,
            "energy": 100 * 11.5 * 365 * 0.1,
        }
    )
    assert found["capital_freed_once"]["mean"] == pytest.approx(15 * 50_000)
    annual = found["annual_value"]["mean"]
    assert annual == pytest.approx(sum(parts.values()))
    assert found["annual_value_after_costs"]["mean"] == pytest.approx(annual - 1e6)
    assert found["first_year_return"]["mean"] == pytest.approx((annual - 3e6) / 2e6)
    assert found["payback_years"]["mean"] == pytest.approx(2e6 / (annual - 1e6))
    text = capsys.readouterr().out
    for name in fab_value.Assumptions.__dataclass_fields__:
        assert name.replace("_", " ") in text
    # Intervals are of the fabs' own values: with two, mean +- 12.706 standard errors.
    each = [
        365 * d * 100_000 * 0.2 + w * 50_000 * 0.2 + late * 365 * 10_000 + 100 * lots * 36.5
        for d, w, late, lots in ((1, 10, 0.9, 11), (2, 20, 2.0, 12))
    ]
    half = 12.7062 * abs(each[1] - each[0]) / 2
    low, high = found["annual_value"]["ci95"]
    assert [low, high] == pytest.approx([annual - half, annual + half], rel=1e-4)


def test_without_a_difference_nothing_is_gained(evaluation: Path) -> None:
    """Against the best rule, which does as well here, the costs are never earned back."""
    assert main(["fab", "value", str(evaluation), *MONEY]) == 0
    found = json.loads((evaluation / "value.json").read_text())
    assert found["against"] == "EDD"
    assert found["annual_value"] == {"mean": 0.0, "ci95": [0.0, 0.0]}
    assert found["first_year_return"]["mean"] == pytest.approx(-1.1)
    assert found["payback_years"] == {"mean": None, "ci95": [None, None]}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--revenue", "1e6"], "--wafer-value is missing"),
        ([*MONEY, "--against", "FIF"], "no rule 'FIF'; did you mean 'FIFO'?"),
        ([*MONEY, "--policy", "agent"], "no policy 'agent'; did you mean 'agents'?"),
        ([*MONEY, "--sold", "2"], "sold"),
    ],
)
def test_bad_input_is_one_sentence(
    evaluation: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fab", "value", str(evaluation), *words]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_a_folder_without_an_evaluation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fab", "value", str(tmp_path), *MONEY]) == 2
    assert "no evaluation in" in capsys.readouterr().err
    (tmp_path / "config.json").write_text("{}")
    assert main(["fab", "value", str(tmp_path), *MONEY]) == 2
    assert "fab evaluate" in capsys.readouterr().err
