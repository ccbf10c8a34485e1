"""Run folders written by hand, read back and drawn."""

import json
import re
import struct
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure

from rlax_lab.errors import InputError
from rlax_lab.plots import COLORS, DASHES, STYLE, learning_curves, look, read_curve, style

CONFIG: dict[str, Any] = {"algo": "ppo", "env": "CartPole-v1", "seeds": 2, "threshold": 475.0}


def line(steps: int, seed: int, episode: float | None, **more: float | None) -> dict[str, Any]:
    return {"update": 1, "env_steps": steps, "seed": seed, "episode_return": episode, **more}


def write_run(folder: Path, lines: list[dict[str, Any]], end: str = "", **config: Any) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(CONFIG | config))
    metrics = "".join(json.dumps(record) + "\n" for record in lines)
    (folder / "metrics.jsonl").write_text(metrics + end)
    return folder


def write_curve(folder: Path, reports: int, seeds: int, every: int, **config: Any) -> Path:
    lines = [
        line(every * (report + 1), seed, 10.0 * report, eval_return=12.0 * report + seed)
        for report in range(reports)
        for seed in range(seeds)
    ]
    return write_run(folder, lines, seeds=seeds, **config)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_curve(tmp_path / "run", reports=4, seeds=3, every=1000)


def png_size(path: Path) -> tuple[int, int]:
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    assert data[-8:-4] == b"IEND"
    width, height = struct.unpack(">II", data[16:24])
    return width, height


def test_read_curve_of_training_returns(tmp_path: Path) -> None:
    lines = [line(64, 0, None), line(64, 1, 1.5), line(2**33, 0, 3), line(2**33, 1, 4.0)]
    curve = read_curve(write_run(tmp_path / "my-run", lines, threshold=None))
    assert (curve.label, curve.env, curve.algo) == ("my-run", "CartPole-v1", "ppo")
    assert curve.threshold is None
    assert curve.steps.dtype == np.int64
    np.testing.assert_array_equal(curve.steps, [64, 2**33])
    np.testing.assert_array_equal(curve.returns, [[np.nan, 1.5], [3.0, 4.0]])
    np.testing.assert_array_equal(curve.episode_returns, curve.returns)
    assert curve.returns.dtype == curve.episode_returns.dtype == np.float64
    assert not curve.evaluated


def test_read_curve_of_evaluation_returns(tmp_path: Path) -> None:
    lines = [
        line(10, 0, 1.0, eval_return=None),
        line(10, 1, 2.0, eval_return=None),
        line(20, 0, 3.0, eval_return=5.0),
        line(20, 1, 4.0, eval_return=6.0),
    ]
    curve = read_curve(write_run(tmp_path / "run", lines))
    assert curve.evaluated
    assert curve.threshold == 475.0
    np.testing.assert_array_equal(curve.returns, [[np.nan, np.nan], [5.0, 6.0]])
    np.testing.assert_array_equal(curve.episode_returns, [[1.0, 2.0], [3.0, 4.0]])


@pytest.mark.parametrize(
    "second", [line(10, 1, 2.0), line(10, 1, 2.0, eval_return=None)], ids=["missing", "null"]
)
def test_read_curve_needs_every_line_evaluated_and_one_value(
    tmp_path: Path, second: dict[str, Any]
) -> None:
    first = line(10, 0, 1.0, eval_return=None if "eval_return" in second else 9.0)
    curve = read_curve(write_run(tmp_path / "run", [first, second]))
    assert not curve.evaluated
    np.testing.assert_array_equal(curve.returns, [[1.0, 2.0]])


def test_read_curve_sorts_reports_and_keeps_the_later_of_two_lines(tmp_path: Path) -> None:
    lines = [line(20, 0, 1.0), line(20, 1, 2.0), line(10, 1, 3.0), line(20, 0, 4.0)]
    curve = read_curve(write_run(tmp_path / "run", lines))
    np.testing.assert_array_equal(curve.steps, [10, 20])
    np.testing.assert_array_equal(curve.returns, [[np.nan, 3.0], [4.0, 2.0]])


@pytest.mark.parametrize("end", ["{", '{"update": 2, "env_st', json.dumps(line(20, 0, 1.0))[:-1]])
def test_read_curve_ignores_a_line_cut_short(tmp_path: Path, end: str) -> None:
    curve = read_curve(write_run(tmp_path / "run", [line(10, 0, 1.0)], end))
    np.testing.assert_array_equal(curve.steps, [10])


def test_read_curve_takes_a_last_line_that_only_lacks_its_newline(tmp_path: Path) -> None:
    end = json.dumps(line(20, 0, 1.0))
    curve = read_curve(write_run(tmp_path / "run", [line(10, 0, 1.0)], end))
    np.testing.assert_array_equal(curve.steps, [10, 20])


@pytest.mark.parametrize(
    "bad",
    [
        "",
        "{",
        "[1, 2]",
        "\x00\x00",
        '{"env_steps": 10, "seed": 0}',
        '{"env_steps": 10, "episode_return": 1.0}',
        '{"seed": 0, "episode_return": 1.0}',
        '{"env_steps": 10, "seed": 2, "episode_return": 1.0}',
        '{"env_steps": 10, "seed": -1, "episode_return": 1.0}',
        '{"env_steps": 10.5, "seed": 0, "episode_return": 1.0}',
        '{"env_steps": 1' + 20 * "0" + ', "seed": 0, "episode_return": 1.0}',
        '{"env_steps": 10, "seed": 0, "episode_return": [1.0]}',
        '{"env_steps": 10, "seed": 0, "episode_return": 1.0, "eval_return": "high"}',
    ],
)
def test_read_curve_names_a_malformed_line(tmp_path: Path, bad: str) -> None:
    end = f"{bad}\n{json.dumps(line(20, 0, 1.0))}\n"
    run = write_run(tmp_path / "run", [line(10, 0, 1.0)], end)
    expected = (
        f"{run / 'metrics.jsonl'}, line 2, is not a JSON object with env_steps, "
        "a seed below 2 and an episode_return."
    )
    with pytest.raises(InputError, match=f"^{re.escape(expected)}$"):
        read_curve(run)


def test_read_curve_names_what_is_missing(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(InputError, match=f"^There is no run folder {re.escape(str(run))}.$"):
        read_curve(run)
    run.mkdir()
    config, metrics = run / "config.json", run / "metrics.jsonl"
    with pytest.raises(InputError, match=f"^Cannot read {re.escape(str(config))}: No such file"):
        read_curve(run)
    config.write_text(json.dumps(CONFIG))
    with pytest.raises(InputError, match=f"^Cannot read {re.escape(str(metrics))}: No such file"):
        read_curve(run)
    for nothing in ("", '{"update"'):
        metrics.write_text(nothing)
        with pytest.raises(InputError, match=f"^{re.escape(str(metrics))} holds no report yet.$"):
            read_curve(run)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        *(json.dumps({k: v for k, v in CONFIG.items() if k != key}) for key in CONFIG),
        json.dumps(CONFIG | {"seeds": "two"}),
        json.dumps(CONFIG | {"threshold": "high"}),
    ],
)
def test_read_curve_names_a_malformed_configuration(run: Path, text: str) -> None:
    path = run / "config.json"
    path.write_text(text)
    expected = f"{path} is not a JSON object with algo, env, seeds and threshold."
    with pytest.raises(InputError, match=f"^{re.escape(expected)}$"):
        read_curve(run)


def test_learning_curves_writes_a_png_of_its_size(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "folder" / "curve.png"
    assert learning_curves([run], out) == out
    assert png_size(out) == (960, 690)  # 6.4 x 4.6 inches (two lines of legend) at 150 dpi
    assert out.stat().st_size > 10_000


def test_learning_curves_writes_vectors(run: Path, tmp_path: Path) -> None:
    pdf = learning_curves([run], tmp_path / "curve.pdf").read_bytes()
    assert pdf.startswith(b"%PDF-")
    assert pdf.rstrip().endswith(b"%%EOF")
    assert re.search(rb"/MediaBox \[ ?0 0 460\.8 331\.2 ?\]", pdf)  # 6.4 x 4.6 inches in points
    assert b"/Subtype /Image" not in pdf
    assert b"CreationDate" not in pdf  # else tomorrow's file differs
    assert b"/Type3" not in pdf  # which journals refuse
    svg = learning_curves([run], tmp_path / "curve.SVG").read_text()
    assert "<svg" in svg
    assert "<image" not in svg
    for text in (
        "CartPole-v1",
        "environment steps (per seed)",
        "evaluation return (greedy policy),",
        "IQM of 3 seeds, 95 % interval",
        "ppo: run (3 seeds)",
        "threshold 475 (CartPole-v1)",
    ):
        assert f">{text}</text>" in svg  # as text, not as paths


@pytest.mark.parametrize("suffix", ["png", "pdf", "svg"])
def test_learning_curves_are_the_same_bytes_every_time(
    run: Path, tmp_path: Path, suffix: str
) -> None:
    first, second = (learning_curves([run], tmp_path / f"{n}.{suffix}") for n in (1, 2))
    assert first.read_bytes() == second.read_bytes()


def test_learning_curves_of_runs_with_other_grids_and_seeds(run: Path, tmp_path: Path) -> None:
    others = [
        write_curve(tmp_path / "dqn", 9, 2, 370, algo="dqn"),
        write_curve(tmp_path / "short", 1, 1, 5000, env="Other-v0", threshold=-3.5),
        write_curve(tmp_path / "free", 3, 1, 500, threshold=None),
    ]
    out = learning_curves([run, *others], tmp_path / "curves.png")
    assert png_size(out) == (960, 810)  # four runs and two thresholds
    svg = learning_curves([run, *others], tmp_path / "curves.svg").read_text()
    for text in ("IQM over seeds, 95 % interval", "short (1 seed)", "threshold -3.5 (Other-v0)"):
        assert text in svg


def test_learning_curves_make_room_for_a_long_name(tmp_path: Path) -> None:
    run = write_curve(tmp_path / ("_" + 20 * "name"), 3, 2, 100, threshold=None)
    svg = learning_curves([run], tmp_path / "curve.svg").read_text()
    assert ">ppo: _namename" in svg
    assert 'height="331.2pt"' in svg  # two lines, one entry


def test_learning_curves_compare_training_returns_if_any_run_has_no_other(
    run: Path, tmp_path: Path
) -> None:
    other = write_run(tmp_path / "other", [line(100, 0, None), line(100, 1, 1.0)])
    mixed = learning_curves([run, other], tmp_path / "mixed.svg").read_text()
    assert ">training return," in mixed
    assert "evaluation return" not in mixed

    lines = [json.loads(text) for text in (run / "metrics.jsonl").read_text().splitlines()]
    for record in lines:
        del record["eval_return"]
    trained = write_run(tmp_path / "trained" / run.name, lines, seeds=3)
    assert learning_curves([trained, other], tmp_path / "all.svg").read_text() == mixed


def test_learning_curves_refuse_what_they_cannot_draw(run: Path, tmp_path: Path) -> None:
    def refused(runs: list[Path], name: str) -> str:
        with pytest.raises(InputError) as caught:
            learning_curves(runs, tmp_path / "figures" / name)
        assert not (tmp_path / "figures").exists()
        return str(caught.value)

    assert refused([run], "a.jpeg") == (
        "A figure cannot be written as '.jpeg'; use .png, .pdf, .svg."
    )
    assert refused([run], "a") == (
        "A figure cannot be written without a suffix; use .png, .pdf, .svg."
    )
    assert refused([], "a.png") == "Learning curves need at least one run folder."
    young = write_run(tmp_path / "young", [line(10, 0, None), line(10, 1, None)])
    assert refused([run, young], "a.png") == (
        f"The run {young.name} has no return to draw: no episode has ended yet."
    )


def luminance(color: str) -> float:
    """Relative luminance of WCAG 2.1, from black at 0 to white at 1."""
    rgb = np.array(matplotlib.colors.to_rgb(color))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def test_lines_of_the_style_can_be_told_apart_in_grey_and_seen_on_white() -> None:
    assert len(COLORS) == len(DASHES) == len(set(map(str, DASHES))) == 7
    assert "--" not in DASHES  # which is the threshold's
    assert all(1.05 / (luminance(color) + 0.05) > 2 for color in COLORS)  # contrast with white
    assert len({str(look(index)) for index in range(49)}) == 49


def test_the_style_is_that_of_its_file_whatever_the_users_own() -> None:
    with matplotlib.rc_context({"axes.facecolor": "black", "svg.fonttype": "path"}):
        with style():
            assert matplotlib.rcParams["axes.facecolor"] == "white"
            assert matplotlib.rcParams["svg.fonttype"] == "none"
            assert matplotlib.rcParams["pdf.fonttype"] == 42
            axes = Figure().add_subplot()
            drawn = [axes.plot([0, 1])[0].get_color() for _ in COLORS]
        assert matplotlib.rcParams["axes.facecolor"] == "black"
    assert tuple(drawn) == COLORS
    assert STYLE.is_file()
