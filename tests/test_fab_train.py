"""`rlax-lab fab train` and `evolve`: runs, their exact resume, and their place among the rules."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlax_lab import checkpoint, fab_commands, fab_policy, fab_train, runs
from rlax_lab.cli import main
from rlax_lab.config import to_json
from rlax_lab.errors import InputError
from rlax_lab.packages import ours

# Few features are soon compiled.
PLAIN = """
conwip = 6
spread = true
[groups.wet]
tools = 2
[groups.litho]
[products.memory]
weight = [1, 5]
due_factor = [1, 3]
route = [["wet", {mean = 15, kind = "lognormal", cv = 0.5}], ["litho", 12], ["wet", 9]]
"""
# Lots of 10 minutes on one tool: two that come at once, and one later.
LIST = """
releases = [[0, "part"], [0, "part"], [100, "part"]]
[groups.press]
[products.part]
route = [["press", 10]]
"""
FLAGS = [
    *("--days", "0.2", "--num-envs", "4", "--num-steps", "8", "--num-minibatches", "2"),
    *("--total-steps", "256", "--reports", "4", "--eval-episodes", "2", "--eval-days", "0.2"),
    *("--hidden", "4", "--checkpoint-seconds", "0", "--rule", "SPT", "--value-updates", "4"),
    *("--learning-rate", "0.3"),
]


EVOLVE = [
    *("--days", "0.5", "--settle", "0.1", "--num-envs", "4", "--total-steps", "32"),
    *("--reports", "4", "--eval-episodes", "2", "--eval-days", "0.2", "--hidden", "4"),
    *("--checkpoint-seconds", "0", "--rule", "SPT"),
]


@pytest.fixture(autouse=True, scope="module")
def few_rules() -> Iterator[None]:
    """Each rule is a simulation to compile."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fab_train, "RULES", ())
        yield


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.toml").write_text(PLAIN)
    return tmp_path


def trained(place: Path, verb: str, flags: list[str]) -> Path:
    """A finished run in a folder that also has the fab."""
    (place / "tiny.toml").write_text(PLAIN)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        assert main(["fab", verb, "tiny.toml", *flags, "--out", "run"]) == 0
    return place / "run"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("whole"), "train", FLAGS)


@pytest.fixture(scope="module")
def evolved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("evolved"), "evolve", EVOLVE)


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["fab", "train", *words]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


def test_a_run(whole: Path) -> None:
    """Its folder is like any other run's, and its rule's return its threshold."""
    summary = json.loads((whole / "summary.json").read_text())
    assert (summary["algo"], summary["env"], summary["env_steps"]) == ("mappo", "tiny.toml", 256)
    assert summary["config"]["rule"] == "SPT"
    assert np.isfinite(summary["final_return"]["mean"])
    lines = (whole / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == 4
    assert all(np.isfinite(json.loads(line)["loss"]) for line in lines)
    assert (whole / "curve.png").exists()
    threshold = summary["steps_to_threshold"]["threshold"]
    # Lots in the fab cost 0.4 of a unit all the time, and everything else at most 0.6.
    assert -2 * summary["config"]["eval_days"] * 24 * 60 < threshold < 0


def test_evaluations_play_what_the_rule_played(whole: Path) -> None:
    """The same fabs with the same draws at every report: a policy that has not learnt anything yet
    returns what its rule did, and one that has something else."""
    lines = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    rule = json.loads((whole / "config.json").read_text())["threshold"]
    same = [line["eval_return"] == pytest.approx(rule, rel=1e-6) for line in lines]
    assert same == [True, True, False, False]


def test_the_threshold_is_the_best_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fab_train, "RULES", ("setup > FIFO", "SPT"))
    by_keys = lambda of: jnp.float32(len(of(None).keys))  # noqa: E731
    assert fab_train._best_return(by_keys, "SPT") == 2


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["train", "evolve"])
def test_a_stopped_run_resumes_bit_for_bit(
    verb: str, folder: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    whole = request.getfixturevalue({"train": "whole", "evolve": "evolved"}[verb])
    flags = {"train": FLAGS, "evolve": EVOLVE}[verb]
    words = ["fab", verb, "tiny.toml", *flags, "--out", "part"]
    reports = 0
    write = runs._Log.write

    def interrupt(*arguments: Any, **named: Any) -> None:
        nonlocal reports
        reports += 1
        if reports == 2:
            raise KeyboardInterrupt
        write(*arguments, **named)

    monkeypatch.setattr(runs._Log, "write", interrupt)
    assert main(words) == 130
    monkeypatch.undo()
    monkeypatch.chdir(folder)
    assert main(["fab", verb, "--out", "part", "--resume"]) == 0
    assert (folder / "part/metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()


def test_an_evolved_run(evolved: Path, folder: Path) -> None:
    """Its folder is like any other run's, and its policy dispatches beside the rules."""
    summary = json.loads((evolved / "summary.json").read_text())
    assert (summary["algo"], summary["env_steps"]) == ("evolution", 32)
    lines = [json.loads(line) for line in (evolved / "metrics.jsonl").read_text().splitlines()]
    assert len(lines) == 4
    assert all(line["spread"] > 0 and line["episodes"] == 8 for line in lines)
    decider = fab_train.decider(evolved, fab_commands.load_fab("tiny.toml"))
    assert decider.keys == ours("fab.rules").parse("SPT").keys


def test_a_play_is_a_stretch_of_the_fab() -> None:
    """Mutants that are all alike return what the rule brings from where the fabs are, and leave
    the fabs where it does."""
    config = fab_train.Evolution(
        rule="SPT", num_envs=3, total_steps=6, noise=1e-9, days=0.5, settle=0.2, warmup=0.3
    )
    task = fab_train.task("tiny.toml", config, threshold=0.0)
    state = jax.jit(task.learner.init)(jax.random.key(3))
    _, before, _ = state.env
    after, sums = jax.jit(task.learner.update)(state)
    simulate, figures, env = (ours(f"fab.{x}") for x in ("simulate", "figures", "env"))
    params, rule = task.env_params, ours("fab.rules").parse("SPT")

    def until(fab: Any, day: float) -> Any:
        end = jnp.full(3, round(day * 14_400), jnp.int32)
        fab = fab._replace(window=figures.Window(jnp.zeros(3, jnp.int32), end))
        return simulate.run(params.instance, rule, fab)

    zeros = jax.tree.map(lambda x: jnp.zeros_like(x), before.figures)
    settled = until(before._replace(figures=zeros), 0.5)
    ended = until(settled, 0.8)
    returns = jax.vmap(lambda x, y: env.episode_return(params, x, y))(ended, settled)
    assert float(sums["episode_return"]) == pytest.approx(2 * float(returns.sum()), rel=1e-5)
    assert len(np.unique(returns)) == 3
    for x, y in zip(jax.tree.leaves(after.env[1].lots), jax.tree.leaves(ended.lots), strict=True):
        np.testing.assert_array_equal(x, y)


def test_a_list_of_releases_counts_from_its_first_lot(folder: Path) -> None:
    """Its lots are in the fab for 10, 20 and 10 minutes, in every evaluation and in every play."""
    (folder / "list.toml").write_text(LIST)
    config = fab_train.Evolution(
        rule="SPT", num_envs=1, total_steps=2, objective="cycle_time", days=1.0, hidden=4
    )
    task = fab_train.task("list.toml", config, episodes=2)
    # In mean operations, over the three lots that there can be at once.
    expected = -(10 + 20 + 10) / 10 / 3
    assert task.threshold == pytest.approx(expected, rel=1e-5)
    state = jax.jit(task.learner.init)(jax.random.key(0))
    update = jax.jit(task.learner.update)
    for _ in range(2):
        state, sums = update(state)
        assert float(sums["episode_return"]) == pytest.approx(2 * expected, rel=1e-5)
    with pytest.raises(InputError, match=r"warmup is 1 days, but by then the last lot .* has left"):
        fab_train.task("list.toml", replace(config, warmup=1.0), episodes=2)


def test_all_fabs_are_played(monkeypatch: pytest.MonkeyPatch) -> None:
    """In turns where they are more than an update's environments, each part's its own."""
    monkeypatch.setattr(fab_train, "_measure", lambda *_: None)
    config = fab_train.Evolution(fabs=5, num_envs=2)
    spread = fab_train.task("fab-10x300", config, threshold=0.0, parts=2).learner
    assert jax.eval_shape(spread.init, jax.random.key(0)).env[0].shape == (2, 3)
    config = fab_train.Evolution(rule="SPT", num_envs=2, warmup=0.01)
    plan = fab_commands.load_fab("tiny.toml")
    three = fab_train._stack([fab_train._params(plan, config)] * 3)
    fab = fab_train.environment(plan, config)
    state = jax.jit(fab_train._evolution(fab, three, config, turns=2).init)(jax.random.key(0))
    np.testing.assert_array_equal(state.env[0], [0, 1, 2, 0])


def test_among_rules(whole: Path, folder: Path) -> None:
    """`fab compare` has it beside rules on the same random numbers."""
    words = ["fab", "compare", "tiny.toml", "--rules", "FIFO", "--policy", str(whole)]
    assert main([*words, "--days", "1", "--replications", "2", "--out", "both"]) == 0
    summary = json.loads((folder / "both/summary.json").read_text())
    assert [result["rule"] for result in summary["results"]] == ["FIFO", "policy run"]
    assert "Which features move policy run" in (folder / "both/report.html").read_text()
    assert (folder / "both/importance-1.png").exists()


def test_what_moves_a_policy(folder: Path) -> None:
    """One that goes by its rule's preference and one column of the lots, by nothing else."""
    config = fab_train.Config(hidden=4, rule="SPT", prior=1.0)
    plan = fab_commands.load_fab("tiny.toml")
    env = fab_train.environment(plan, config)
    params = fab_policy.make(env, env.default_params, config, "lots").init(jax.random.key(0))
    network = jax.tree.map(jnp.zeros_like, params.network)
    column = ours("fab.env").LOT_FEATURES.index("time in fab")
    network["params"]["index"] = network["params"]["index"].at[1 + column].set(3.0)
    params = params._replace(network=jax.tree.map(lambda x: x[None], network))
    checkpoint.save(folder / "checkpoints", 0, {"params": params}, {})
    run = {"algo": "mappo", "env": "", "seeds": 1, "seed": 0, "parts": 1, "config": to_json(config)}
    (folder / "config.json").write_text(json.dumps(run))
    changed = fab_train.importance(folder, plan, fabs=2, steps=64)
    moved = {name for name, part in changed.items() if part > 0}
    assert moved == {"the rule's preference", "time in fab"}
    assert max(changed.values()) <= 1


def test_a_decider_is_of_a_run(whole: Path, folder: Path) -> None:
    """It adds to the run's rule, and is of one of the run's seeds."""
    plan = fab_commands.load_fab(str(folder / "tiny.toml"))
    # The fab that it was trained on need not be there any more.
    (folder / "tiny.toml").unlink()
    decider = fab_train.decider(whole, plan)
    assert decider.keys == ours("fab.rules").parse("SPT").keys
    # A run may be longer than the episodes of the training.
    assert decider.params.horizon == ours("fab.instance").LONGEST_RUN
    with pytest.raises(InputError, match=r"seed is 1, but .* has 1 seeds\."):
        fab_train.decider(whole, plan, seed=1)
    (folder / "config.json").write_text(json.dumps({"algo": "ppo"}))
    for place in (folder, folder / "nowhere"):
        with pytest.raises(InputError):
            fab_train.decider(place, plan)


@pytest.mark.parametrize("actors", ["embedded", "separate"])
def test_a_decider_fits_the_fab(actors: str, folder: Path) -> None:
    """Groups of their own fit a fab with as many, and weights the program that made them."""
    plan = fab_commands.load_fab("tiny.toml")
    (folder / "more.toml").write_text(PLAIN.replace("[groups.litho]", "[groups.litho]\n[groups.x]"))
    config = fab_train.Config(actors=actors, hidden=4)
    run = {"seeds": 1, "seed": 0, "parts": 1, "threshold": None}
    record = {"algo": "mappo", "env": "gone.toml", **run}

    def write(config: fab_train.Config) -> None:
        (folder / "config.json").write_text(json.dumps({**record, "config": to_json(config)}))

    env = fab_train.environment(plan, config)
    init = fab_policy.make(env, env.default_params, config, "lots").init
    params = jax.vmap(init)(jax.random.key(0)[None])
    checkpoint.save(folder / "checkpoints", 0, {"params": params}, {})
    write(config)
    fab_train.decider(folder, plan)
    with pytest.raises(InputError, match=rf"{actors} actors for 2 groups, but 'more' has 3;"):
        fab_train.decider(folder, fab_commands.load_fab("more.toml"))
    for other in (replace(config, hidden=5), replace(config, actors="shared")):
        write(other)
        with pytest.raises(InputError, match="holds a policy of other shapes"):
            fab_train.decider(folder, plan)


def test_an_exported_policy_stands_for_its_run(
    evolved: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fab", "export", str(evolved), "--out", "alone"]) == 0
    files = [path for path in Path("alone").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 50_000
    assert not any(str(folder).encode() in path.read_bytes() for path in files)
    jax.tree.map(
        np.testing.assert_array_equal, runs.load_network(Path("alone")), runs.load_network(evolved)
    )
    assert fab_train.read_record(Path("alone")) == fab_train.read_record(evolved)
    fab_train.decider(Path("alone"), fab_commands.load_fab("tiny.toml"))
    assert main(["fab", "export", str(evolved), "--out", "alone"]) == 2
    assert "alone holds other files; give another --out." in capsys.readouterr().err
    assert main(["fab", "export", "nowhere", "--out", "other"]) == 2
    assert "nowhere holds no run" in capsys.readouterr().err


def test_a_run_begins_with_the_policy_of_another(folder: Path) -> None:
    """Of what that one saw it chooses the same, and adds to its rule unless another is named."""
    plan = fab_commands.load_fab("tiny.toml")
    config = fab_train.Evolution(rule="SPT", hidden=4)
    env = fab_train.environment(plan, config)
    init = fab_policy.make(env, env.default_params, config).init
    params = jax.vmap(init)(jax.random.key(0)[None])
    noise = lambda x: x + jax.random.normal(jax.random.key(1), x.shape)  # noqa: E731
    checkpoint.save(folder / "checkpoints", 0, {"params": jax.tree.map(noise, params)}, {})
    run = {"algo": "evolution", "env": "", "seeds": 1, "seed": 0, "parts": 1}
    (folder / "config.json").write_text(json.dumps({**run, "config": to_json(config)}))
    before = fab_train.decider(folder, plan)

    begin = jax.jit(jax.vmap(lambda key: env.reset_env(key, env.default_params)[0]))
    seen = begin(jax.random.split(jax.random.key(2), 128))
    chosen = jax.jit(jax.vmap(before.act))(seen)
    assert np.any((chosen >= 0) & (np.take_along_axis(seen.preference, chosen, 1) < 0))
    same = {"hidden": 4, "start": str(folder)}
    fab = {"days": 0.5, "num_envs": 2, "warmup": 0.0}
    few = {"num_steps": 4, "num_minibatches": 1}
    for config, rule in (
        (fab_train.Evolution(settle=0.1, noise=0.1, **same, **fab), "SPT"),
        (fab_train.Config(prior=3.0, rule="FIFO", **few, **same, **fab), "FIFO"),
    ):
        task = fab_train.task("tiny.toml", config, threshold=0.0)
        learner = task.learner
        assert task.config.rule == rule
        # Without its environments, which would be compiled in vain.
        begun = jax.jit(lambda key, init=learner.init: init(key).params)(jax.random.key(5))
        np.testing.assert_array_equal(jax.jit(learner.act)(begun, seen), chosen)
    for wrong, message in (
        ({"hidden": 5}, r"weights actor_0 have the shape \(\d+, 4\), but here it is \(\d+, 5\)"),
        ({"actors": "embedded"}, "weights .* hidden and actors must be as there"),
        ({"start": "nowhere"}, "nowhere holds no run"),
    ):
        config = fab_train.Evolution(settle=0.1, **{**same, **fab, **wrong})
        with pytest.raises(InputError, match=message):
            fab_train.task("tiny.toml", config, threshold=0.0)
    gone = fab_train.Evolution(settle=0.1, rule="SPT", **{**same, **fab, "start": "nowhere"})
    resumed = fab_train.task("tiny.toml", gone, threshold=0.0, begins=False).learner
    network = jax.eval_shape(resumed.init, jax.random.key(5)).params.network["params"]
    assert {name: x.shape[1:] for name, x in params.network["params"].items()} == {
        name: x.shape for name, x in network.items()
    }


def test_a_family_is_stacked() -> None:
    few = {"num_envs": 2, "num_steps": 4, "num_minibatches": 1}
    config = fab_train.Config(fabs=3, days=1.0, warmup=0.1, **few)
    task = fab_train.task("fab-20x300-conwip", config, threshold=0.0)
    work = task.env_params.instance.work
    assert len(work) == 3
    for i in range(3):
        alone = fab_commands.load_fab("fab-20x300-conwip", i).instance.work
        np.testing.assert_array_equal(work[i, : len(alone)], alone)
        assert not np.any(work[i, len(alone) :])
    shapes = jax.eval_shape(task.learner.init, jax.random.key(0))
    assert jax.tree.leaves(shapes.env.observation)[0].shape[0] == 2


def test_bad_input(capsys: pytest.CaptureFixture[str], whole: Path) -> None:
    """Everything wrong is one sentence that says what."""
    assert "the fab is missing" in refused(capsys)
    assert "seed-10x50" in refused(capsys, "seed-10x5")
    assert "is one fab, not a family" in refused(capsys, "tiny.toml", "--fabs", "2")
    assert "FIFOO" in refused(capsys, "tiny.toml", "--rule", "FIFOO")
    assert "objective is 'all5', but must be one of" in refused(
        capsys, "tiny.toml", "--objective", "all5"
    )
    assert "--resume needs --out" in refused(capsys, "tiny.toml", "--resume")
    assert "does not divide the batch" in refused(
        capsys, "tiny.toml", "--num-envs", "3", "--num-minibatches", "5"
    )
    assert "holds another run" in refused(capsys, "tiny.toml", "--out", str(whole))
    assert main(["fab", "evolve", "--out", str(whole), "--resume"]) == 2
    assert "holds a run of mappo, not of `fab evolve`." in capsys.readouterr().err
    assert main(["fab", "evolve", "tiny.toml", "--settle", "5", "--days", "5"]) == 2
    assert "settle is 5.0, but must be less than days, 5.0" in capsys.readouterr().err
