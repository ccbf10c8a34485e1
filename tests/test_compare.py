"""Comparisons of runs whose numbers are written by hand."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rliable.metrics
import scipy.stats

from rlax_lab.cli import main
from rlax_lab.compare import PANELS, WINDOW, assess, draw, plain, read, table
from rlax_lab.plots import Curve, read_curve, read_result
from tests.test_plots import line, png_size, write_run

RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"


def write(folder: Path, returns: Any, every: int = 100, **config: Any) -> Path:
    """A run with these evaluation returns ``[R, S]``, and 3 episodes of each seed a report."""
    lines = [
        line(every * (report + 1), seed, 0.0, eval_return=value, episodes=3)
        for report, row in enumerate(returns)
        for seed, value in enumerate(row)
    ]
    return write_run(folder, lines, seeds=len(returns[0]), **config)


@pytest.fixture
def two(tmp_path: Path) -> list[Path]:
    """One that solves CartPole-v1, threshold 475, in two of three seeds, and one that does not."""
    good = [[10, 20, 30], [100, 480, 70], [490, 500, 80], [480, 500, 90], [470, 500, 100]]
    bad = [[20, 30], [20, 40], [10, 50], [20, 60], [30, 70], [20, 80]]
    return [write(tmp_path / "good", good), write(tmp_path / "bad", bad, every=50, algo="dqn")]


def test_metrics_are_those_of_the_numbers(two: list[Path]) -> None:
    good, bad = (run.metrics for run in assess(read(two)))
    final, other = np.array([470.0, 500.0, 100.0]), np.array([20.0, 80.0])
    assert (good["run"], good["algo"], good["seeds"], good["env_steps"]) == ("good", "ppo", 3, 500)
    assert good["final_return"]["iqm"] == pytest.approx(scipy.stats.trim_mean(final, 0.25))
    assert good["final_return"]["median"] == 470
    assert good["gap_to_threshold"] == pytest.approx(
        rliable.metrics.aggregate_optimality_gap(final, 475)
    )
    assert good["steps_to_threshold"] == {"median": 300, "per_seed": [300, 200, None]}
    assert good["episodes_to_threshold"] == {"median": 9, "per_seed": [9, 6, None]}
    seeds = [[10, 100, 490, 480, 470], [20, 480, 500, 500, 500], [30, 70, 80, 90, 100]]
    expected = np.var(np.array(seeds)[:, -WINDOW:], axis=1, ddof=1)
    assert good["variance"] == pytest.approx(scipy.stats.trim_mean(expected, 0.25))
    assert good["improvement_over_first"] is None

    assert bad["steps_to_threshold"] == {"median": None, "per_seed": [None, None]}
    better = bad["improvement_over_first"]
    expected = rliable.metrics.probability_of_improvement(other[:, None], final[:, None])
    assert better["probability"] == pytest.approx(expected)
    assert 0 <= better["ci95"][0] <= better["probability"] <= better["ci95"][1] <= 1


def test_another_threshold_is_taken_for_the_environments(two: list[Path]) -> None:
    good, bad = (run.metrics for run in assess(read(two), threshold=60.0))
    assert good["steps_to_threshold"]["per_seed"] == [200, 200, 200]
    assert bad["steps_to_threshold"] == {"median": None, "per_seed": [None, 200]}


def test_a_seed_without_a_last_return_is_left_out(tmp_path: Path) -> None:
    run = write(tmp_path / "run", [[1.0, 2.0], [None, 4.0], [None, None]], threshold=None)
    (assessed,) = assess(read([run]))
    assert assessed.metrics["final_return"]["per_seed"] == [4.0]
    assert assessed.metrics["variance"] is None
    assert assessed.metrics["gap_to_threshold"] is None


def test_the_command_writes_pictures_and_metrics(
    two: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "out"
    assert main(["compare", *map(str, two), "--out", str(out)]) == 0
    dashboard = {f"dashboard.{suffix}" for suffix in ("pdf", "svg", "png")}
    panels = {f"{name}.pdf" for name in PANELS}
    assert {path.name for path in out.iterdir()} == dashboard | panels | {
        "metrics.json",
        "metrics.md",
    }
    for name in panels | {"dashboard.pdf"}:
        pdf = (out / name).read_bytes()
        assert pdf.startswith(b"%PDF-")
        assert pdf.rstrip().endswith(b"%%EOF")
        assert b"/Subtype /Image" not in pdf  # vectors only
        assert b"/Type3" not in pdf  # and fonts that journals take
    assert png_size(out / "dashboard.png")[0] == 1950
    svg = (out / "dashboard.svg").read_text()
    for text in (
        "CartPole-v1",
        "ppo: good (3 seeds)",
        "threshold 475",
        "solved (IQM)",
        "2 of 3 solved",
        "training episodes until solved:",
        "variance of 5 returns in a row,",
        "better than first",
    ):
        assert f">{text}</text>" in svg
    runs = assess(read(two))
    assert json.loads((out / "metrics.json").read_text()) == [run.metrics for run in runs]
    assert (out / "metrics.md").read_text().count("\n") == 2 + len(two)
    assert capsys.readouterr().out.startswith(plain(table(runs)) + "\n\n")


def test_runs_of_one_report_or_no_variance_or_no_threshold_are_drawn(tmp_path: Path) -> None:
    flat = write(tmp_path / "flat", [[1.0, 1.0]] * 7, threshold=None)
    short = write(tmp_path / ("long_" * 20), [[2.0, 3.0]], threshold=None, algo="actor_critic")
    draw(assess(read([flat, short])), tmp_path / "out")
    draw(assess(read([short]), threshold=0.0), tmp_path / "out2")


def test_results_are_read_as_their_runs_were() -> None:
    result = read_result(RESULTS / "ppo_acrobot.json")
    assert (result.label, result.algo, result.env) == ("ppo_acrobot", "ppo", "Acrobot-v1")
    assert result.threshold == -100
    saved = json.loads((RESULTS / "ppo_acrobot.json").read_text())
    np.testing.assert_allclose(result.returns[-1], saved["final_return"]["per_seed"])
    (run,) = assess([result])
    assert run.metrics["steps_to_threshold"]["per_seed"] == saved["steps_to_threshold"]["per_seed"]
    kept = np.load(RESULTS / "ppo_acrobot.npz")
    solved = [row.index(True) for row in (kept["returns"] >= -100).T.tolist()]
    episodes = [kept["episodes"][at, seed] for seed, at in enumerate(solved)]
    assert run.metrics["episodes_to_threshold"]["per_seed"] == episodes


def test_episodes_add_up_and_are_unknown_where_not_kept(tmp_path: Path) -> None:
    lines = [line(step, seed, 1.0, episodes=seed + 2) for step in (10, 20) for seed in (0, 1)]
    curve: Curve = read_curve(write_run(tmp_path / "run", lines))
    np.testing.assert_array_equal(curve.episodes, [[2, 3], [4, 6]])
    old = read_curve(write_run(tmp_path / "old", [line(10, 0, 1.0), line(10, 1, 1.0)]))
    assert np.all(np.isnan(old.episodes))


def test_runs_of_one_name_are_told_apart_by_their_paths(two: list[Path], tmp_path: Path) -> None:
    other = write(tmp_path / "other" / "good", [[1.0]])
    assert [curve.label for curve in read([*two, other])] == [str(two[0]), "bad", str(other)]


def test_bad_input_gets_one_sentence(
    two: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    write(Path("acrobot"), [[1.0]], env="Acrobot-v1")
    write(Path("other"), [[1.0]], threshold=3.0)
    write_run(Path("young"), [])
    write_run(Path("unfinished"), [line(10, 0, None), line(10, 1, None)])
    Path("alone.json").write_text("{}")
    Path("bad.json").write_text("{}")
    Path("bad.npz").write_bytes(b"")
    Path("full").mkdir()
    Path("full", "file").touch()
    Path("file").touch()
    before = sorted(tmp_path.rglob("*"))
    for words, sentence in {
        "none": "There is no run folder none.",
        "young": "young/metrics.jsonl holds no report yet.",
        "unfinished": "The run unfinished has no return to draw: no episode has ended yet.",
        "good acrobot": "Runs are compared on one environment, but good is of CartPole-v1 and "
        "acrobot of Acrobot-v1.",
        "good other": "These runs have different thresholds, 3.0, 475.0; --threshold says which "
        "to take.",
        "good bad good": "The run good is given twice.",
        "alone.npz": "Cannot read alone.npz: No such file or directory.",
        "bad.json": "bad.npz and bad.json are not the result of a run.",
        "good --out full": "full holds other files; give another --out.",
        "good --out file": "file is a file; --out must be a folder.",
        "good --threshold high": "threshold is 'high', but must be a finite number.",
        "good --treshold 3": "there is no option '--treshold'; did you mean '--threshold'?",
    }.items():
        assert main(["compare", "--out", "new", *words.split()]) == 2
        assert capsys.readouterr() == ("", f"rlax-lab: {sentence}\n")
    assert sorted(tmp_path.rglob("*")) == before
