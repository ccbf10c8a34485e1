"""The suite of experiments, its runner and its table: the real one, and a tiny one."""

import dataclasses
import json
import re
import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import curves
from rlax_lab import cli, commands, population, signals, sweep
from rlax_lab.errors import InputError

SUITE = curves.load()
# Result files of other benchmarks.
OTHERS = {
    *("asynchrony", "demo", "sweep"),
    *("throughput", "cold", "hotspots", "parity", "scaling"),
    *("fab4r", "fab4r_policies", "fab_latency", "fab_speed"),
    *("fab_stability", "fab_stability_fab4r", "fab_tuned", "fab_tuned_conwip"),
    *("fab_often", "fab_conwip", "fab_conwip_index", "fab_conwip_long"),
    *("fab_smaller", "fab_busier"),
    *("fab_ablation_ppo", "fab_ablation_evolution", "fab_seeds"),
    *("fab_held_out", "fab_held_out_conwip", "fab_ppo", "fab_rules", "fab_varied", "fab_wait"),
}

TINY = """
[sources]
them = "them, one run"

[plain]
title = "Plain"
about = "First."
algo = "a2c"
env = "CartPole-v1"
seeds = 2
run = { eval_episodes = 2 }
[plain.experiments.small]
total_steps = 320
published = [{ value = 1e9, steps = 640, source = "them" }]
note = "Small."
[plain.experiments.large]
total_steps = 640
gpu = true
config = { hidden_sizes = [8, 8], max_grad_norm = "none", normalize_observations = true }

[varied]
title = "Varied"
about = "Second."
baseline = "small"
baseline_label = "as it is"
[varied.experiments.sharp]
label = "sharp"
expected = "worse"
config = { activation = "relu" }
[varied.experiments.calm]
label = "calm"
gpu = true
config = { entropy_coef = 0.1, gamma = 0.9 }
"""


@pytest.fixture
def declare(tmp_path):
    def load(text=TINY):
        path = tmp_path / "curves.toml"
        path.write_text(text)
        return curves.load(path)

    return load


@pytest.fixture
def alone(monkeypatch):
    """The command line leaves the devices and the caches of the other tests as they are."""
    monkeypatch.setattr(commands, "use_all_cores", lambda: None)
    monkeypatch.setattr(commands, "use_compilation_cache", lambda: None)


@pytest.fixture
def asked(alone, monkeypatch):
    """Tasks and settings that the command line was about to run."""
    seen = []

    def run(task, settings, folder, resume):
        seen.append((task, settings))
        return 0

    monkeypatch.setattr(commands, "run", run)
    return seen


@pytest.mark.parametrize("name", SUITE.experiments)
def test_the_command_line_takes_every_experiment_as_it_is_declared(name, asked, tmp_path):
    experiment = SUITE.experiments[name]
    assert cli.main([*experiment.words(), "--out", str(tmp_path / "run")]) == 0
    [(task, settings)] = asked
    assert (task.algo, task.env_name) == (experiment.algo, experiment.env)
    assert task.config == experiment.configuration()
    assert task.config.total_steps == experiment.total_steps
    assert settings.seeds == experiment.seeds


def test_every_ablation_differs_from_its_baseline_in_what_it_says():
    ablations = [group for group in SUITE.groups.values() if group.baseline]
    assert len(ablations) >= 6
    for group in ablations:
        (_, base), *rows = curves.variants(SUITE, group)
        assert len({label for label, _ in curves.variants(SUITE, group)}) == len(rows) + 1
        for _, row in rows:
            assert row.expected in ("better", "worse", "")
            assert row.config != base.config
            same = "algo", "env", "total_steps", "seeds", "run"
            assert [getattr(row, k) for k in same] == [getattr(base, k) for k in same]


def test_every_result_file_is_of_an_experiment_as_it_is_declared():
    files = {path.stem for path in curves.RESULTS.glob("*.json")} - OTHERS
    assert files <= set(SUITE.experiments)
    for name in files:
        experiment = SUITE.experiments[name]
        result = curves.result_of(experiment)
        assert result is not None, name
        if curve := curves.curve_of(experiment):
            np.testing.assert_array_equal(curve.returns[-1], result["final_return"]["per_seed"])
            assert curve.steps[-1] == result["env_steps"]
    assert {path.stem for path in curves.RESULTS.glob("*.npz")} <= files


def test_the_committed_table_is_what_the_result_files_give():
    assert curves.TABLE.read_text() == curves.report(SUITE)


def test_the_table_shows_only_pictures_that_are_there():
    shown = set(re.findall(r"benchmarks/results/\w+\.png", curves.TABLE.read_text()))
    assert shown
    assert all((curves.TABLE.parent / path).exists() for path in shown)


def test_the_readme_quotes_the_table():
    text = (curves.TABLE.parent / "README.md").read_text()
    section = " ".join(text[text.index("## Results") : text.index("## Where things are")].split())
    quoted = re.findall(r"-?\d+\.\d \[.*?\]", section)
    assert len(quoted) > 5
    assert [numbers for numbers in quoted if numbers not in curves.TABLE.read_text()] == []


@given(
    st.lists(st.floats(-500, 500), min_size=2, max_size=2, unique=True).map(sorted),
    st.floats(-500, 500),
    st.floats(0.01, 100),
)
def test_a_verdict_says_on_which_side_the_interval_lies(interval, value, share):
    row = curves.Published(value, 1000, "them")
    text = curves.verdict(interval, round(1000 * share), row)
    low, high = interval
    assert ("reproduced" in text) == (low <= value <= high)
    assert ("above" in text) == (value < low)
    assert ("below" in text) == (value > high)
    assert ("of the steps" in text) == (abs(round(1000 * share) - 1000) >= 50)


def test_intervals_beside_each_other():
    assert curves.beside([2, 3], [0, 1]) == "better"
    assert curves.beside([0, 1], [2, 3]) == "worse"
    assert curves.beside([0, 2], [1, 3]) == curves.beside([1, 1], [1, 1]) == "intervals overlap"


def test_a_verdict_on_what_was_published_of_a_variant():
    assert curves.agreement("worse", "worse") == "**reproduced**"
    assert curves.agreement("better", "worse") == "**the opposite**"
    assert curves.agreement("intervals overlap", "worse") == "not seen"
    assert curves.agreement("better", "") == ""


def test_words_of_every_kind_of_value(declare):
    large = declare().experiments["large"]
    assert " ".join(large.words(reports=3)) == (
        "train a2c --env CartPole-v1 --total-steps 640 --hidden-sizes 8,8 --max-grad-norm none "
        "--normalize-observations --eval-episodes 2 --seeds 2 --reports 3"
    )
    assert large.configuration().max_grad_norm is None
    assert "--no-double" in large._replace(config={"double": False}).words()


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (("note =", "notes ="), "'notes', which there is not; did you mean 'note'?"),
        (('"them"', '"they"'), "the source of small is 'they', which there is not"),
        (('= "small"', '= "smal"'), "the baseline of varied is 'smal', which there is not"),
        (("varied.experiments.sharp", "varied.experiments.small"), "'small' is given twice"),
        (("varied.experiments.sharp", "varied.experiments.plain"), "'plain' is given twice"),
    ],
)
def test_a_suite_that_cannot_be_is_refused(declare, change, complaint):
    with pytest.raises(InputError) as caught:
        declare(TINY.replace(*change, 1))
    assert complaint in str(caught.value)


def test_which_experiments_run(declare):
    suite = declare()

    def names(*given, missing=False, on_gpu=False):
        return [e.name for e in curves.chosen(suite, given, missing, on_gpu)]

    assert names() == ["small", "sharp"]
    assert names(on_gpu=True) == ["small", "large", "sharp", "calm"]
    assert names("large") == ["large"]
    assert names("varied", "small") == ["small", "sharp", "calm"]
    with pytest.raises(InputError, match=r"no experiment or group 'lage'.*'large'"):
        names("lage")
    with pytest.raises(InputError, match="the groups are plain, varied"):
        names("zzz")
    done = curves.chosen(SUITE, ["ppo_cartpole"], missing=True, on_gpu=False)
    assert done == []


def test_an_interrupted_suite_goes_on_where_it_stopped(
    declare, alone, tmp_path, monkeypatch, capsys
):
    """The second experiment is stopped after its first report, and then resumed."""
    suite = declare()
    work, results, table = tmp_path / "work", tmp_path / "results", tmp_path / "RESULTS.md"
    results.mkdir()
    run_cli = curves.rlax_lab
    ran = []

    def stopping(words):
        ran.append(words)
        with monkeypatch.context() as patch:
            if len(ran) == 2:
                patch.setattr(signals.StopRequest, "signal", 15)
            return run_cli(words)

    monkeypatch.setattr(curves, "rlax_lab", stopping)
    experiments = curves.chosen(suite, [], missing=False, on_gpu=False)
    small, sharp = experiments

    assert curves.run_all(suite, experiments, work, results, table) == 128 + 15
    assert curves.result_of(small, results) is not None
    assert curves.result_of(sharp, results) is None
    assert "not run yet" in table.read_text()
    first = (work / "small" / "summary.json").read_bytes()

    assert curves.run_all(suite, experiments, work, results, table) == 0
    assert [words[-1] for words in ran] == [str(work / "small"), str(work / "sharp"), "--resume"]
    assert (work / "small" / "summary.json").read_bytes() == first
    assert "2 of 2: sharp" in capsys.readouterr().out

    assert curves.run(curves.Program((sharp,)), tmp_path / "whole") == 0
    curve = curves.curve_of(sharp, results, "sharp")
    again = curves.read_curve(tmp_path / "whole")
    np.testing.assert_array_equal(curve.returns, again.returns)
    np.testing.assert_array_equal(curve.episode_returns, again.episode_returns)
    assert (curve.label, curve.threshold) == ("sharp", 475.0)
    assert {path.name for path in results.iterdir()} == {
        *(f"{name}.{kind}" for name in ("small", "sharp") for kind in ("json", "npz")),
        "small.png",
        "varied.png",
    }
    result = json.loads((results / "sharp.json").read_text())
    assert result["command"] == f"rlax-lab {' '.join(sharp.words())}"

    text = table.read_text()
    assert text == curves.report(suite, results)
    assert "not run yet" not in text
    assert "waits for a GPU" in text
    assert "**below** in 0.5 of the steps" in text
    assert "- `small`: Small." in text

    # The same figures once more from what was saved, the run folders gone.
    shutil.rmtree(work)
    drawn = (results / "varied.png").read_bytes()
    (results / "varied.png").unlink()
    curves.publish(suite, suite.groups, results, table)
    assert (results / "varied.png").read_bytes() == drawn
    assert table.read_text() == text


def test_experiments_that_differ_but_in_floats_share_a_program(declare, alone, tmp_path, capsys):
    """Each finds what it finds alone, to the rounding of other batches, and is saved as if it had
    run so; one that diverges does not take the others along."""
    wild = "[varied.experiments.wild]\nconfig = { learning_rate = 1e30 }\n"
    suite = declare(TINY + wild)
    found = curves.programs(suite.experiments.values())
    assert [program.name for program in found] == ["small+calm+wild", "large", "sharp"]
    shared, (small, calm, wild) = found[0], found[0].experiments
    results, table = tmp_path / "results", tmp_path / "RESULTS.md"
    results.mkdir()
    assert curves.run_all(suite, shared.experiments, tmp_path, results, table) == 1
    assert capsys.readouterr().err.endswith("These diverged: wild.\n")
    assert curves.result_of(wild, results) is None
    for trial, experiment in enumerate((small, calm)):
        folder = tmp_path / experiment.name
        assert curves.run(curves.Program((experiment,)), folder) == 0
        one, (summary,) = curves.read_curve(folder), curves.trained(folder)
        curve, result = curves.curve_of(experiment, results), curves.result_of(experiment, results)
        for name in ("steps", "returns", "episode_returns", "episodes"):
            np.testing.assert_allclose(getattr(curve, name), getattr(one, name), rtol=1e-6)
        assert (result["trial"], result["trials"]) == (trial, 3)
        assert summary.keys() - result.keys() == set()
        for name in ("algo", "env", "seeds", "env_steps", "config", "steps_to_threshold"):
            assert result[name] == summary[name]
        assert result["command"].startswith("rlax-lab sweep a2c --env CartPole-v1")
    # What is done is not run again, and what is there of other settings not taken for it.
    folder = tmp_path / shared.name
    assert curves.run(shared, folder) == 0
    other = curves.Program((small, calm._replace(config={"gamma": 0.5}), wild))
    with pytest.raises(InputError, match=r"not small\+calm\+wild as curves\.toml has it"):
        curves.run(other, folder)


SHARED = [p for p in curves.programs(SUITE.experiments.values()) if len(p.experiments) > 1]


def test_the_ablations_of_floats_share_their_baselines_program():
    names = [program.name for program in SHARED]
    assert "ppo_cartpole+ppo_cartpole_lambda_0+ppo_cartpole_lambda_1" in names


@pytest.mark.parametrize("program", SHARED, ids=lambda program: program.name)
def test_the_command_line_takes_every_program(program, alone, monkeypatch, tmp_path):
    seen = []
    monkeypatch.setattr(sweep, "run", lambda *args: seen.append(args) or 0)
    monkeypatch.setattr(population, "unused", lambda *_, **__: [])  # which other tests are of
    assert cli.main([*program.words(), "--out", str(tmp_path / "run")]) == 0
    [(task, config, space, settings, *_)] = seen
    values = {name: x.tolist() for name, x in sweep.values_of(space, settings).items()}
    assert settings.trials == len(program.experiments)
    for trial, experiment in enumerate(program.experiments):
        assert (task.algo, task.env_name) == (experiment.algo, experiment.env)
        assert settings.seeds == experiment.seeds
        own = {name: space[name][trial] for name in space}
        assert dataclasses.replace(config, **own) == experiment.configuration()
        assert {name: x[trial] for name, x in values.items()} == {
            name: np.float32(x) for name, x in own.items()
        }


def test_a_folder_of_another_configuration_is_not_taken_for_done(declare, tmp_path):
    small = declare().experiments["small"]
    folder = tmp_path / "run"
    folder.mkdir()
    other = small._replace(config={"gamma": 0.5})
    config = curves.to_json(other.configuration())
    summary = {"algo": "a2c", "env": "CartPole-v1", "seeds": 2, "config": config}
    (folder / "summary.json").write_text(json.dumps(summary))
    (folder / "config.json").write_text("{}")
    assert curves.run(curves.Program((other,)), folder) == 0
    with pytest.raises(InputError, match=r"not small as curves\.toml has it"):
        curves.run(curves.Program((small,)), folder)


def test_time_left_is_that_of_alike_experiments(declare, tmp_path):
    suite = declare()
    small, large = (suite.experiments[name] for name in ("small", "large"))
    assert curves.seconds(suite, [small, large], tmp_path) == 0
    found = {"algo": "a2c", "env": "CartPole-v1", "seeds": 2, "env_steps": 320, "wall_seconds": 8}
    config = curves.to_json(small.configuration())
    (tmp_path / "small.json").write_text(json.dumps({**found, "config": config}))
    assert curves.seconds(suite, [small, large], tmp_path) == 8 + 16
    of_four = {**found, "config": config, "trials": 4}
    (tmp_path / "small.json").write_text(json.dumps(of_four))
    assert curves.seconds(suite, [small, large], tmp_path) == 2 + 4
