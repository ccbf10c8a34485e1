"""`rlax-lab fab evaluate`: figures of many fabs against the simulator's own, and its statistics."""

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from benchmarks import fab_seeds, fab_stability
from rlax_lab import fab_evaluate, fab_train
from rlax_lab.cli import main
from rlax_lab.errors import InputError
from rlax_lab.packages import ours

WORDS = ["fab", "evaluate", "--family", "tiny", "--days", "4", "--warmup", "1", "--configs", "5"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    generator = ours("fab.generator")
    tiny = generator.Family(
        groups=(3, 3),
        products=(1, 1),
        tools=(1, 2),
        operations=(4, 9),
        lots=(6, 6),
        conwip=True,
        maintained=0.3,
    )
    ours("fab.library")  # Imported by now, its list of fabs never has this one.
    monkeypatch.setitem(generator.FAMILIES, "tiny", tiny)
    return tmp_path


def test_figures_are_the_simulators(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Fabs of all sizes in one program have the figures that each has alone, and paired ones; of
    several replications the means."""
    words = [*WORDS, "--rules", "FIFO, SPT", "--replications", "2", "--out", "out"]
    assert main([*words, "--at-once", "3"]) == 0
    assert "means over 5 fabs" in capsys.readouterr().out
    found = np.load(folder / "out" / "configurations.npz")
    sim, figures = ours("fab.simulate"), ours("fab.figures")
    generator, rules = ours("fab.generator"), ours("fab.rules")
    family = generator.FAMILIES["tiny"]
    plans = [generator.make(family, seed, held_out=True) for seed in range(5)]
    assert len({len(plan.instance.group) for plan in plans}) > 1
    assert len({plan.instance.maintenance is None for plan in plans}) == 2
    day = 86400 / plans[0].seconds
    for name, seed in (("FIFO", 0), ("SPT", 4)):
        plan = plans[seed]
        window = figures.Window(jnp.int32(round(day)), jnp.int32(round(5 * day)))
        instance = jax.tree.map(jnp.asarray, plan.instance)
        key = jax.random.key(seed)
        keys = jnp.stack([key, jax.random.fold_in(key, 1)])
        start = sim.start(instance, keys, window)
        alone = figures.measure(plan, sim.run(instance, rules.parse(name), start))
        per_minute = 1440.0
        for figure, factor in (
            ("cycle_time", 1 / per_minute),
            ("weighted_tardiness", 24 / per_minute),
            ("on_time", 1.0),
            ("lots_per_day", 1.0),
            ("wip", 1.0),
            ("utilisation", 1.0),
            ("energy_per_lot", 1.0),
        ):
            want = alone[figure].mean() * factor
            np.testing.assert_allclose(
                found[f"{name}/{figure}"][seed], want, rtol=1e-4, err_msg=figure
            )
    summary = json.loads((folder / "out" / "evaluation.json").read_text())
    assert summary["configs"] == 5
    objective = summary["figures"]["SPT"]["objective"]["mean"]
    assert objective == pytest.approx(found["SPT/objective"].mean())
    # Stopped before its last part, it goes on to the same result.
    parts = folder / "out" / "parts"
    (parts / "000003-000004-001.npz").unlink()
    kept = parts / "000003-000004-000.npz"
    when = kept.stat().st_mtime_ns
    assert main([*words, "--at-once", "3"]) == 0
    assert kept.stat().st_mtime_ns == when
    again = np.load(folder / "out" / "configurations.npz")
    for key in found.files:
        np.testing.assert_array_equal(found[key], again[key])
    # And of more or fewer fabs it does what there is not yet.
    assert main([*words, "--at-once", "3", "--configs", "3"]) == 0
    fewer = np.load(folder / "out" / "configurations.npz")
    for key in found.files:
        np.testing.assert_array_equal(found[key][:3], fewer[key])
    assert len(list(parts.iterdir())) == 4
    assert main([*words, "--at-once", "3", "--seed", "1"]) == 2
    assert "holds other files; give another --out." in capsys.readouterr().err


def test_evaluations_in_pieces_are_one(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fabs 0 to 2 and 3 to 4, evaluated apart and pooled in whatever order, are as 0 to 4."""
    words = [*WORDS, "--rules", "SPT", "--out"]
    assert main([*words, "whole"]) == 0
    assert main([*words, "first", "--configs", "3"]) == 0
    assert main([*words, "then", "--configs", "2", "--seed", "3", "--at-once", "1"]) == 0
    capsys.readouterr()
    assert main(["fab", "pool", "then", "first", "--out", "pooled"]) == 0
    assert "means over 5 fabs" in capsys.readouterr().out
    whole, pooled = (np.load(folder / name / "configurations.npz") for name in ("whole", "pooled"))
    assert whole.files == pooled.files
    for key in whole.files:
        np.testing.assert_allclose(whole[key], pooled[key], rtol=1e-5, err_msg=key)
    one, other = (
        json.loads((folder / name / "evaluation.json").read_text()) for name in ("whole", "pooled")
    )
    assert one["settings"] == other["settings"]
    assert [piece["command"].split()[-4:] for piece in other["pieces"]] == [
        ["--out", "first", "--configs", "3"],
        ["--seed", "3", "--at-once", "1"],
    ]
    assert [piece["seeds"] for piece in other["pieces"]] == [[0, 2], [3, 4]]
    objective = one["figures"]["SPT"]["objective"]["mean"]
    assert other["figures"]["SPT"]["objective"]["mean"] == pytest.approx(objective)

    def refused(*pieces: str) -> str:
        assert main(["fab", "pool", *pieces, "--out", "refused"]) == 2
        assert not (folder / "refused").exists()
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        return error

    assert "first has the fabs of seeds 0 to 2, and whole those of 0 to 4" in refused(
        "first", "whole"
    )
    assert "nowhere has no evaluation.json" in refused("first", "nowhere")
    assert main([*words, "others", "--configs", "2", "--seed", "3", "--days", "5"]) == 0
    assert "first and others differ in days: 4.0 and 5.0." in refused("first", "others")
    about = json.loads((folder / "others" / "evaluation.json").read_text())
    about = {**about, "settings": other["settings"], "trained": {"run": {"algo": "mappo"}}}
    about["settings"]["seed"] = 3
    (folder / "others" / "evaluation.json").write_text(json.dumps(about))
    assert "first and others are of policies trained otherwise." in refused("first", "others")

    # What is known is not simulated again, a gap and other rules are.
    played, play = 0, fab_evaluate._played

    def counted(*arguments: Any) -> Any:
        nonlocal played
        played += 1
        return play(*arguments)

    monkeypatch.setattr(fab_evaluate, "_played", counted)
    words = [*WORDS, "--known", "first", "--rules", "SPT", "--at-once", "3"]
    assert main([*words, "--known", "then", "--out", "known"]) == 0
    assert played == 0
    known = np.load(folder / "known" / "configurations.npz")
    for key in pooled.files:
        np.testing.assert_array_equal(known[key], pooled[key])
    about = json.loads((folder / "known" / "evaluation.json").read_text())
    assert about["known"] == other["pieces"]
    assert main([*words, "--rules", "SPT, FIFO", "--out", "half"]) == 0
    assert played == 3
    half = np.load(folder / "half" / "configurations.npz")
    for key in pooled.files:
        np.testing.assert_allclose(half[key], pooled[key], rtol=1e-5, err_msg=key)
    assert main([*words, "--days", "5", "--out", "refused"]) == 2
    assert "first and refused differ in days: 4.0 and 5.0." in capsys.readouterr().err
    assert not (folder / "refused").exists()


@pytest.mark.parametrize("name", ["fab_held_out", "fab_held_out_conwip"])
def test_the_committed_evaluation_is_that_of_its_pieces(name: str, folder: Path) -> None:
    """The figures of every fab are kept, and the result file is what they come to."""
    results = Path(fab_stability.__file__).parent / "results"
    kept = json.loads((results / f"{name}.json").read_text())
    pieces = sorted((results / name).iterdir())
    assert len(pieces) == len(kept["pieces"])
    assert main(["fab", "pool", *map(str, pieces), "--out", "pooled"]) == 0
    pooled = json.loads((folder / "pooled" / "evaluation.json").read_text())
    fabs = [json.loads((piece / "evaluation.json").read_text())["configs"] for piece in pieces]
    assert pooled["configs"] == kept["configs"] == sum(fabs)
    ours, theirs = (
        jax.tree.leaves((x["figures"], [policy["against"] for policy in x["policies"].values()]))
        for x in (pooled, kept)
    )
    np.testing.assert_allclose(ours, theirs, rtol=1e-9)


def test_every_seed_of_a_run_is_evaluated(monkeypatch: pytest.MonkeyPatch) -> None:
    records = {"one": {"seeds": 1, "seed": 7}, "three": {"seeds": 3, "seed": 4}}
    monkeypatch.setattr(fab_train, "read_record", lambda path: records[path.name])
    monkeypatch.setattr(fab_train, "policy", lambda path, plan, seed: (path.name, seed))
    settings = fab_evaluate.Settings(family="tiny", rules="SPT")
    found = fab_evaluate._contenders(settings, [Path("one"), Path("three")])
    assert dict(list(found.items())[1:]) == {
        "policy one": ("one", 0),
        "policy three seed 4": ("three", 0),
        "policy three seed 5": ("three", 1),
        "policy three seed 6": ("three", 2),
    }
    with pytest.raises(InputError, match="the same name"):
        fab_evaluate._contenders(settings, [Path("one"), Path("elsewhere/one")])


def test_statistics_over_seeds() -> None:
    """Of made-up seeds, against SciPy."""
    rng = np.random.default_rng(0)
    ahead, share, cycle, late = rng.normal(size=(4, 10))
    against = [
        {
            "differences": {"objective": {"mean": ahead[i]}},
            "better_objective": share[i],
            "ratios": {"cycle_time": {"mean": cycle[i]}, "weighted_tardiness": {"mean": late[i]}},
        }
        for i in range(10)
    ]
    found = fab_seeds.over_seeds(against)
    assert list(found) == ["objective", "better_objective", "cycle_time", "weighted_tardiness"]
    for one, values in zip(found.values(), (ahead, share, cycle, late), strict=True):
        want = stats.t.interval(0.95, 9, values.mean(), stats.sem(values))
        assert one["mean"] == pytest.approx(values.mean())
        assert one["ci95"] == pytest.approx(want)
        assert one["per_seed"] == list(values)


def test_the_busiest_group() -> None:
    """By hand: the second of three groups is busiest but takes batches; the third one was down for
    half of the time of its two tools."""
    batches = SimpleNamespace(family=jnp.array([0, 1, 0, 0]))
    instance = SimpleNamespace(
        tools=jnp.array([[True, False], [True, False], [True, True]]),
        group=jnp.array([0, 1, 2, 1]),
        batches=batches,
    )
    totals = SimpleNamespace(
        tick=jnp.float32(100.0),
        processing=jnp.array([60.0, 99.0, 80.0]),
        down=jnp.array([0.0, 0.0, 100.0]),
    )
    assert fab_evaluate.busiest(instance, totals) == pytest.approx(0.8)
    instance.batches = None
    assert fab_evaluate.busiest(instance, totals) == pytest.approx(0.99)


def test_fabs_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """More fabs than lanes, each with a rule and an end of its own, end as each does alone."""
    sim, figures, rules = ours("fab.simulate"), ours("fab.figures"), ours("fab.rules")
    generator, empty = ours("fab.generator"), figures.Window(jnp.int32(0), jnp.int32(0))
    monkeypatch.setattr(sim, "_LANES", 3)
    fabs = 11
    plans = [generator.make(generator.FAMILIES["tiny"], seed) for seed in range(fabs)]
    params, _ = fab_evaluate.stack(plans, fab_evaluate.Settings())
    own = params.instance, 0.5 * jnp.arange(1.0, 1 + fabs)
    ends = params.horizon * jnp.arange(fabs) // 4  # the first one is at its end already

    def of(own: Any) -> tuple[Any, Any]:
        return own[0], rules.Rule(rules.atc(own[1]))

    keys = jax.random.split(jax.random.key(0), fabs)
    start = jax.jit(sim.start, static_argnums=3)(params.instance, keys, empty, True)
    start = start._replace(window=figures.Window(jnp.zeros_like(ends), ends))
    together = jax.jit(lambda own, start: sim.run_own(own, of, start))(own, start)
    alone = jax.jit(lambda own, start: sim.until_the_end(*of(own), start))
    for fab in range(fabs):
        its = jax.tree.map(lambda x, fab=fab: x[fab], (own, start, together))
        want = alone(its[0], its[1])
        for x, y in zip(jax.tree.leaves(its[2]), jax.tree.leaves(want), strict=True):
            # XLA rounds fractions in a way of its own in each program.
            fraction = jnp.issubdtype(x.dtype, jnp.floating)
            np.testing.assert_allclose(x, y, rtol=3e-7 if fraction else 0.0)


def test_long_runs() -> None:
    """Where lots are constant there are as many on average in every quarter; growth by hand."""
    generator = ours("fab.generator")
    plans = [generator.make(generator.FAMILIES["tiny"], seed, held_out=True) for seed in range(2)]
    params, _ = fab_evaluate.stack(plans, fab_evaluate.Settings())
    rule = ours("fab.rules").parse("FIFO")
    keys = jnp.stack([jax.random.key(seed) for seed in range(2)])
    lots = fab_stability.measure(lambda _: rule, params, keys, years=0.5)
    np.testing.assert_allclose(lots, [[6.0, 6.0]] * 2, rtol=1e-5)
    # A first year that does not count, then a fab that grows from 10 to 11 and one that shrinks.
    lots = np.array([[0, 0]] * 4 + [[10, 10]] * 2 + [[11, 9]] * 2)
    found = fab_stability.growth(lots)
    assert found["mean"] == pytest.approx(0.0)
    assert found["ci95"] == pytest.approx(stats.t.interval(0.95, 1, 0.0, 0.1))


def test_statistics() -> None:
    """Ratios, differences and targets from made-up figures, against SciPy and by hand."""
    rng = np.random.default_rng(0)
    size = 4000
    names = ("FIFO", "EDD", "policy run")
    base = rng.gamma(50.0, 0.2, size)
    found: dict[str, Any] = {
        name: {figure: base + rng.normal(0, 0.1, size) for figure, *_ in fab_evaluate.FIGURES}
        for name in names
    }
    found["policy run"]["cycle_time"] = 0.7 * found["FIFO"]["cycle_time"] + rng.normal(0, 1, size)
    found["EDD"]["objective"] += 1
    summary = fab_evaluate.summarize(found)
    assert summary["best_rule"] == "EDD"
    mine = summary["policies"]["policy run"]
    for rule in ("FIFO", "EDD"):
        better = np.mean(found["policy run"]["objective"] > found[rule]["objective"])
        assert mine["against"][rule]["better_objective"] == better
        # Wilson 1927: the parts from which this one is 1.96 deviations away.
        ends = np.array(mine["against"][rule]["better_ci95"])
        away = stats.norm.ppf(0.975) * np.sqrt(ends * (1 - ends) / size)
        np.testing.assert_allclose(np.abs(better - ends), away, rtol=1e-9, atol=1e-12)
        assert ends[0] <= better <= ends[1]
    difference = found["policy run"]["wip"] - found["EDD"]["wip"]
    want = stats.ttest_1samp(difference, 0.0).confidence_interval(0.95)
    np.testing.assert_allclose(mine["against"]["EDD"]["differences"]["wip"]["ci95"], want)
    x, y = found["policy run"]["cycle_time"], found["FIFO"]["cycle_time"]
    draws = rng.integers(size, size=(2000, size))
    ratios = x[draws].mean(1) / y[draws].mean(1) - 1
    target = mine["targets"][0]
    assert target["figure"] == "cycle_time"
    assert target["mean"] == pytest.approx(x.mean() / y.mean() - 1)
    # The bootstrap of 2000 draws knows an interval's ends to about a tenth of its width.
    width = np.ptp(target["ci95"])
    np.testing.assert_allclose(target["ci95"], np.quantile(ratios, [0.025, 0.975]), atol=width / 8)
    assert target["met"]
    assert not mine["targets"][1]["met"]  # utilisation


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--family", "tinny"], "there is no family 'tinny'; did you mean 'tiny'?"),
        (["--rules", "FIFO, EDDD"], "EDDD"),
        (["--rules", "FIFO, FIFO"], "two of the rules or policies have the same name."),
        (["--configs", "1"], "configs is 1"),
        (["nowhere"], "nowhere holds no run"),
        (["--days", "0.001"], "under 'setup > FIFO', no lot leaves some fab; give more --days."),
    ],
)
def test_bad_input(words: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    given = WORDS if "--family" not in words else WORDS[:2]
    assert main([*given, *words]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert says in error


def test_fabs_that_overflow_get_more_slots() -> None:
    """Those of a block to which more lots come than they have slots for are as with slots enough;
    the others are as they were."""
    generator = ours("fab.generator")
    open_ = dataclasses.replace(generator.FAMILIES["tiny"], conwip=False)
    plans = [generator.make(open_, seed) for seed in range(4)]
    params, _ = fab_evaluate.stack(plans, fab_evaluate.Settings(days=4.0, warmup=1.0))
    rule = ours("fab.rules").parse("FIFO")
    program = fab_evaluate._program(lambda own: rule)
    keys = jax.random.split(jax.random.key(0), 4)
    late = jax.device_get(program(params, keys))["late"]
    assert late.any()
    assert not late.all()
    more = params.replace(instance=params.instance.replace(slots=50))
    enough = jax.device_get(program(more, keys))
    assert not enough["late"].any()
    found = fab_evaluate._played(program, params, keys)
    for name, x in enough.items():
        np.testing.assert_allclose(found[name], x, rtol=1e-5, err_msg=name)
