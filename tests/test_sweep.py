"""`rlax-lab sweep`: what it leaves behind, how it stops and resumes, what it refuses."""

import json
import shlex
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest

from rlax_lab import checkpoint, plots, population, ppo, runs, statistics, sweep, sweep_plots
from rlax_lab.cli import ALGORITHMS, main
from rlax_lab.population import Range
from tests.test_cli import refused  # noqa: F401
from tests.test_resume import VOLATILE, digest, newest

CARTPOLE = ["ppo", "--env", "CartPole-v1"]
SIZES = [
    *("--num-envs", "8", "--num-steps", "8", "--num-epochs", "1", "--num-minibatches", "2"),
    *("--hidden-sizes", "8", "--total-steps", "500", "--reports", "4", "--seeds", "2"),
    *("--eval-episodes", "4", "--checkpoint-seconds", "0"),
]
GRID = [
    *("sweep", *CARTPOLE, *SIZES, "--fresh-seeds", "2"),
    *("--learning-rate", "1e-4,1e-2,1e30", "--gamma", "0.9,0.99"),
]
PBT = [
    *("sweep", *CARTPOLE, *SIZES, "--method", "pbt", "--trials", "4", "--exploit-fraction", "0.5"),
    *("--learning-rate", "log:1e-4:1e-1", "--gamma", "0.9:1"),
]


@pytest.fixture(scope="module")
def grid(tmp_path_factory):
    """A finished grid of six settings, of which those with the third learning rate diverge."""
    folder = tmp_path_factory.mktemp("sweep") / "grid"
    assert main([*GRID, "--out", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def pbt(tmp_path_factory):
    """Two finished populations of four members."""
    folder = tmp_path_factory.mktemp("sweep") / "pbt"
    assert main([*PBT, "--out", str(folder)]) == 0
    return folder


def strict(text):
    def refuse(constant):
        raise ValueError(constant)

    return json.loads(text, parse_constant=refuse)


def records(folder):
    return [strict(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def summary(folder):
    return strict((folder / "summary.json").read_text())


# What a sweep leaves


def test_folder(grid, pbt):
    common = {"config.json", "metrics.jsonl", "tensorboard", "checkpoints", "summary.json"}
    assert {path.name for path in pbt.iterdir()} == common | {"sweep.png"}
    assert {path.name for path in grid.iterdir()} == common | {"sweep.png", "best"}
    for folder in (grid, pbt):
        assert (folder / "sweep.png").read_bytes().startswith(b"\x89PNG\r\n")


def test_metrics(grid):
    """A line per report, seed and trial, with the values of the trial; null where it diverged."""
    lines = records(grid)
    settings = [(rate, gamma) for rate in (1e-4, 1e-2, 1e30) for gamma in (0.9, 0.99)]
    want = [
        (update, seed, trial, *values)
        for update in (2, 4, 6, 8)
        for seed in range(2)
        for trial, values in enumerate(settings)
    ]
    names = ("update", "seed", "trial", "learning_rate", "gamma")
    assert [tuple(line[name] for name in names) for line in lines] == want
    for line in lines:
        assert line["env_steps"] == 64 * line["update"]
        assert (line["eval_return"] is None) == (line["trial"] >= 4)
        assert (line["loss"] is None) >= (line["trial"] >= 4 and line["update"] > 2)


def test_a_trial_is_what_train_makes_of_its_setting(grid, tmp_path):
    """To float tolerance: there the learning rate is a constant of the program."""
    run = tmp_path / "run"
    setting = ["--learning-rate", "1e-2", "--gamma", "0.9"]
    assert main(["train", *CARTPOLE, *SIZES, *setting, "--out", str(run)]) == 0
    alone = records(run)
    swept = [line for line in records(grid) if line["trial"] == 2]
    assert len(alone) == len(swept) == 8
    for x, y in zip(alone, swept, strict=True):
        assert x.keys() == y.keys() - {"trial", "learning_rate", "gamma"}
        for name, value in x.items():
            assert y[name] == pytest.approx(value, rel=2e-4, abs=2e-5), name


def test_the_best_setting(grid, tmp_path):
    """It is the one with the best interquartile mean, and measured again with seeds of its own; its
    command does the same, bit for bit."""
    found = summary(grid)
    last = {}
    for line in records(grid):
        last.setdefault(line["trial"], {})[line["seed"]] = line["eval_return"]
    finals = [setting["final_return"] for setting in found["settings"]]
    assert [final["per_seed"] for final in finals] == [list(x.values()) for x in last.values()]
    assert finals[4]["iqm"] is finals[5]["iqm"] is None
    iqms = [statistics.interquartile_mean(list(last[trial].values())) for trial in range(4)]
    best = found["best"]
    assert best["trial"] == int(np.argmax(iqms))
    assert best["picked"] == finals[best["trial"]]
    fresh = strict((grid / "best" / "config.json").read_text())
    assert (fresh["seed"], fresh["seeds"]) == (2, 2)
    assert {name: fresh["config"][name] for name in best["values"]} == best["values"]
    assert best["fresh"] == summary(grid / "best")["final_return"]
    words = shlex.split(best["command"])
    assert words[:2] == ["rlax-lab", "train"]
    assert main([*words[1:], "--out", str(tmp_path / "run")]) == 0
    again = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    assert again == (grid / "best" / "metrics.jsonl").read_bytes()


def test_a_setting_of_which_a_run_diverged_is_not_the_best():
    assert sweep.rank({"iqm": -5.0, "per_seed": [-4.0, -6.0]}) > sweep.rank(
        {"iqm": 9.0, "per_seed": [9.0, None]}
    )
    assert sweep.rank({"iqm": 9.0, "per_seed": [9.0, None]}) > sweep.rank(
        {"iqm": None, "per_seed": [None, None]}
    )


def test_the_best_members(pbt):
    """Each population's best by the last report, measured in episodes that no report had; and the
    best of all with the values that its ancestors had."""
    found, lines = summary(pbt), records(pbt)
    best = found["best"]
    last = [
        [line["eval_return"] for line in lines[-8:] if line["seed"] == seed] for seed in range(2)
    ]
    assert best["picked"]["per_seed"] == [max(x) for x in last]
    assert best["seed"] == int(np.argmax(best["picked"]["per_seed"]))
    assert best["trial"] == int(np.argmax(last[best["seed"]]))
    assert best["fresh"]["per_seed"] != best["picked"]["per_seed"]
    assert len(best["schedule"]) == 4
    assert best["values"] == {name: best["schedule"][-1][name] for name in best["values"]}
    for point in best["schedule"]:
        line = next(
            line
            for line in lines
            if (line["env_steps"], line["seed"], line["trial"])
            == (point["env_steps"], best["seed"], point["trial"])
        )
        assert line["gamma"] == point["gamma"]
    copied = [line for line in lines if line["parent"] != line["trial"]]
    assert copied
    for line in copied:
        parent = next(
            other
            for other in lines
            if (other["update"], other["seed"], other["trial"])
            == (line["update"] - 1, line["seed"], line["parent"])
        )
        factor = line["learning_rate"] / parent["learning_rate"]
        bounded = line["learning_rate"] in (1e-4, 1e-1)
        assert bounded or factor == pytest.approx(0.8) or factor == pytest.approx(1.2)


def test_lineage():
    """From a member back through those whom it and its parents copied."""
    parents = [[0, 1, 2], [0, 0, 2], [1, 1, 0], [0, 2, 2]]
    lines = [
        {"update": update, "seed": seed, "trial": trial, "parent": parent}
        for update, row in enumerate(parents)
        for seed in range(2)
        for trial, parent in enumerate(row if seed else [0, 1, 2])
    ]
    assert [line["trial"] for line in sweep.lineage(lines, 1, 1)] == [0, 0, 2, 1]
    assert [line["trial"] for line in sweep.lineage(lines, 0, 1)] == [1, 1, 1, 1]


def test_resolving_a_random_search():
    """Sixteen trials by default; draws that depend on the seed only."""
    space = {"gamma": Range(0.5, 0.9)}
    settings = sweep.resolved(sweep.Settings(), space)
    assert (settings.method, settings.trials) == ("random", 16)
    again = sweep.values_of(space, sweep.resolved(sweep.Settings(seeds=2), space))
    np.testing.assert_array_equal(sweep.values_of(space, settings)["gamma"], again["gamma"])
    other = sweep.values_of(space, sweep.resolved(sweep.Settings(seed=1), space))
    assert not np.any(other["gamma"] == again["gamma"])


# Stopping and resuming


def interrupted(words, report, folder, monkeypatch):
    """Runs until a signal to stop comes with the `report`-th line written to a log."""
    write, calls = runs._Log.write, []

    def write_and_stop(self, *args):
        write(self, *args)
        calls.append(None)
        if len(calls) == report:
            signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(runs._Log, "write", write_and_stop)
        return main([*words, "--out", str(folder)])


def assert_same_end(folder, reference):
    for inside in (Path(), Path("best")):
        if not (reference / inside).exists():
            continue
        ours, theirs = folder / inside, reference / inside
        assert (ours / "metrics.jsonl").read_bytes() == (theirs / "metrics.jsonl").read_bytes()
        assert digest(newest(ours)) == digest(newest(theirs))
    ours, theirs = (
        {name: x for name, x in summary(f).items() if name not in VOLATILE}
        for f in (folder, reference)
    )
    assert ours == theirs
    assert (folder / "sweep.png").read_bytes() == (reference / "sweep.png").read_bytes()


@pytest.mark.parametrize(("which", "report"), [("grid", 6), ("pbt", 2)])
def test_a_stopped_sweep_resumes_bit_for_bit(
    which, report, grid, pbt, tmp_path, monkeypatch, capsys
):
    """A population among its generations; a grid while its best setting is trained anew."""
    words, reference = {"grid": (GRID, grid), "pbt": (PBT, pbt)}[which]
    folder = tmp_path / "run"
    assert interrupted(words, report, folder, monkeypatch) == 128 + signal.SIGTERM
    assert capsys.readouterr().out.endswith(
        f"the same command with --out {folder} --resume goes on from there.\n"
    )
    assert not (folder / "summary.json").exists()
    assert main([*words[:4], "--out", str(folder), "--resume"]) == 0
    assert_same_end(folder, reference)


def test_a_population_without_its_newest_checkpoints_repeats_them(pbt, tmp_path):
    folder = Path(shutil.copytree(pbt, tmp_path / "run"))
    for number in checkpoint.numbers(folder / "checkpoints")[1:]:
        shutil.rmtree(folder / "checkpoints" / f"{number:012d}")
    assert main([*PBT, "--out", str(folder), "--resume"]) == 0
    assert_same_end(folder, pbt)


# Bad input

FLOATS = (
    "learning_rate, adam_eps, max_grad_norm, gamma, gae_lambda, value_lambda, clip_range, kl_coef, "
    "kl_penalty_target, target_kl, value_clip_range, value_coef, entropy_coef, log_std_init"
)
SHAPE = "but must be a number, a list such as 0.1,0.2 or a range such as 0.1:0.2 or log:0.1:0.2."
RATE = "must be a finite number above 0."
VARIES = ["--gamma", "0.9:0.99"]
REFUSED = {
    "--learnin-rate 1,2": "there is no option '--learnin-rate'; did you mean '--learning-rate'?",
    "": f"nothing varies; give a list or a range, such as --gamma 0.9:0.999, to any of {FLOATS}.",
    "--num-envs 8,16": "num_envs is '8,16', but must be the same in all runs of a program; what "
    f"can vary is {FLOATS}.",
    "--objective clip,kl_penalty": "objective is 'clip,kl_penalty', but must be the same in all "
    f"runs of a program; what can vary is {FLOATS}.",
    "--gamma 0.9,": f"gamma is '0.9,', {SHAPE}",
    "--gamma ,": f"gamma is ',', {SHAPE}",
    "--gamma=": f"gamma is '', {SHAPE}",
    "--gamma 0.9:nan": f"gamma is '0.9:nan', {SHAPE}",
    "--gamma 0.9:0.95:0.99": f"gamma is '0.9:0.95:0.99', {SHAPE}",
    "--gamma log:0.9": f"gamma is 'log:0.9', {SHAPE}",
    "--gamma lin:0.9:1": f"gamma is 'lin:0.9:1', {SHAPE}",
    "--gamma 0.99:0.9": "gamma is '0.99:0.9', but the low end of a range must be below the high.",
    "--gamma 0.9:0.9": "gamma is '0.9:0.9', but the low end of a range must be below the high.",
    "--entropy-coef log:0:0.1": "entropy_coef is 'log:0:0.1', but a logarithmic range must lie "
    "above 0.",
    "--gamma 0.9:1.1": "gamma is 1.1, but must be a finite number at least 0 and at most 1.",
    "--learning-rate 1e-3,0": f"learning_rate is 0.0, but {RATE}",
    "--learning-rate=-1:1": f"learning_rate is -1.0, but {RATE}",
    "--gamma 0.9:0.99 --trials 0": "trials is 0, but must be a whole number at least 1.",
    "--gamma 0.9,0.99 --trials 3": "trials is 3, but the grid has 2.",
    "--gamma 0.9,0.99 --method zip --trials 3": "trials is 3, but the zip has 2.",
    "--gamma 0.9:0.99 --method zip": "gamma is a range, but a zip is made of lists.",
    "--gamma 0.9,0.99 --gae-lambda 0,0.5,1 --method zip": "the lists of a zip must be equally "
    "long, but have values: gamma 2, gae_lambda 3.",
    "--gamma 0.9:0.99 --method grid": "gamma is a range, but a grid is made of lists.",
    "--gamma 0.9,0.99 --method pbt": "gamma is a list, but a population explores ranges.",
    "--gamma 0.9:0.99 --method pbt --trials 3": "trials is 3, but a population must have at least "
    "4 members.",
    "--gamma 0.9:0.99 --method gird": "method is 'gird', but must be one of random, grid, zip, "
    "pbt; did you mean 'grid'?",
    "--gamma 0.9:0.99 --seed 2147483645": "seed is 2147483650, but must be a whole number at least "
    "0 and at most 2147483647.",
    "--kl-coef 1:2": "kl_coef varies, but nothing depends on it under these settings.",
    "--log-std-init=-1:1": "log_std_init varies, but nothing depends on it under these settings.",
    "--gamma 0.9:0.99 --num-envs 0": "num_envs is 0, but must be a whole number at least 1.",
}


@pytest.mark.parametrize(("flags", "sentence"), REFUSED.items(), ids=lambda x: x[:40])
def test_refused(refused, flags, sentence):  # noqa: F811
    assert refused("sweep", *CARTPOLE, *shlex.split(flags)) == sentence


def test_refused_of_other_algorithms(refused):  # noqa: F811
    """Values that cannot go together, and what a population cannot explore."""
    words = ["sweep", "dqn", "--env", "CartPole-v1"]
    assert refused(*words, "--preset", "rainbow", "--v-min", "0,100") == (
        "v_min is 100.0, but must be below v_max, which is 100.0."
    )
    words = ["sweep", "ppo", "--env", "Pendulum-v1", "--method", "pbt"]
    assert refused(*words, "--log-std-init=-1:0", "--gamma", "0.9:1") == (
        "log_std_init varies, but nothing depends on it once a run has begun."
    )


def test_a_sweep_is_not_a_run(refused, grid, pbt, tmp_path):  # noqa: F811
    """Commands for a run refuse a sweep, and the other way round."""
    for name, folder in (("grid", grid), ("pbt", pbt)):
        shutil.copytree(folder, tmp_path / name)
        said = f"{name} holds a sweep, not one run."
        assert refused("evaluate", name) == said
        assert refused("plot", name, "--out", "x.png") == said
        assert refused("train", *CARTPOLE, "--out", name, "--resume") == said
    again = ["sweep", *CARTPOLE, "--resume", "--out"]
    assert refused(*again, "grid/best") == "grid/best holds one run, not a sweep."
    assert refused(*again, "grid", "--gamma", "0.9,0.95") == (
        "grid was started with gamma '0.9,0.99', not '0.9,0.95'; a run resumes only under its own "
        "configuration."
    )


@pytest.mark.parametrize("algo", ALGORITHMS)
def test_every_algorithm_says_what_can_vary(refused, algo):  # noqa: F811
    """And no metric has the name of a field, whose value its line of metrics says."""
    said = refused("sweep", algo, "--env", "CartPole-v1")
    assert "learning_rate" in said
    assert "num_envs" not in said


def test_nothing_but_divergence(tmp_path, capsys):
    folder = tmp_path / "run"
    words = ["sweep", *CARTPOLE, *SIZES, "--learning-rate", "1e30,1e31", "--out", str(folder)]
    assert main(words) == 1
    assert capsys.readouterr().err == (
        f"rlax-lab: every trial in {folder} diverged, or ended no episode in its last evaluation.\n"
    )


# Pictures


def test_heat_map_shows_every_number(grid):
    found = summary(grid)
    space = {"learning_rate": (1e-4, 1e-2, 1e30), "gamma": (0.9, 0.99)}
    (axes, _) = sweep_plots.heat_map(found, space).axes
    shown = {text.get_position(): text.get_text() for text in axes.texts}
    assert len(shown) == 6
    for trial, setting in enumerate(found["settings"]):
        iqm = setting["final_return"]["iqm"]
        text = shown[trial % 2, trial // 2]
        assert text == "no return" if iqm is None else text.startswith(f"{iqm:.3g}\n")
    frame = axes.patches[0]
    assert frame.get_xy() == (
        found["best"]["trial"] % 2 - 0.5,
        found["best"]["trial"] // 2 - 0.5,
    )


def test_parallel_coordinates_are_where_the_values_are():
    """A value in the middle of a logarithmic range is half way up."""
    space = {"a": Range(1e-4, 1e-2, log=True), "b": (1.0, 2.0), "c": Range(-1.0, 3.0)}
    trials = [((1e-3, 1.0, 0.0), 10.0), ((1e-4, 2.0, 3.0), 30.0), ((1e-2, 1.0, -1.0), None)]
    settings = [
        {
            "trial": i,
            "values": dict(zip(space, values, strict=True)),
            "final_return": {"iqm": iqm},
        }
        for i, (values, iqm) in enumerate(trials)
    ]
    figure = sweep_plots.parallel_coordinates({"settings": settings, "best": {"trial": 1}}, space)
    lines = [line.get_ydata() for line in figure.axes[0].lines]
    found = [list(np.round(line, 6)) for line in lines if len(line) >= 3]
    assert found == [[1.0, 0.0, 0.0], [0.5, 0.0, 0.25, 0.0], [0.0, 1.0, 1.0, 1.0]]


def test_schedules_follow_the_ancestors(pbt):
    found = summary(pbt)
    space = {"learning_rate": Range(1e-4, 1e-1, log=True), "gamma": Range(0.9, 1.0)}
    figure = sweep_plots.schedules(found["best"], records(pbt), space)
    _, rates, gammas = figure.axes
    assert (rates.get_yscale(), gammas.get_yscale()) == ("log", "linear")
    members, ancestors, _ = rates.lines
    assert len(members.get_xdata()) == 16
    schedule = found["best"]["schedule"]
    assert list(ancestors.get_ydata()) == [point["learning_rate"] for point in schedule]


def test_values_in_the_metrics_are_the_shortest_that_are_the_same():
    """So that a command with them is the same run."""
    values = population.draw(sweep.jax.random.key(0), {"a": Range(1e-5, 1.0, log=True)}, 100)["a"]
    for x in np.asarray(values):
        assert np.float32(json.loads(str(x))) == x
    config = ppo.Config(learning_rate=json.loads(str(np.float32(1e-3))))
    assert config.learning_rate == 1e-3


def test_a_sweep_is_no_curve(grid):
    with pytest.raises(ValueError, match="holds a sweep, not one run"):
        plots.read_curve(grid)
