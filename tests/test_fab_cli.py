"""The command line of the fabs: every command on small fabs, and what it answers to bad input."""

import base64
import csv
import itertools
import json
import os
import shlex
import subprocess
import sys
from collections import defaultdict
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib import image
from scipy import stats

from rlax_lab import fab_commands, fab_plots, fab_simulate
from rlax_lab.cli import main
from rlax_lab.errors import InputError
from rlax_lab.fab_runs import days_by_default, simulate
from rlax_lab.packages import ours

ROOT = Path(__file__).parents[1]

# Everything that a trace must tell apart: setups, batches, transport, downtimes of both clocks,
# maintenance by the calendar and by pieces, rework.
TINY = """
ticks = 10
conwip = 6
spread = true

[groups.wet]
tools = 2
breakdown = {until = {mean = 200, kind = "exponential"}, repair = 20, clock = "busy"}
maintenance = {pieces = 20, pieces_take = 7}
energy = {processing = 8, setup = 4, idle = 2, down = 1}

[groups.litho]
setups = 4
breakdown = {until = {mean = 300, kind = "exponential"}, repair = {mean = 30, kind = "uniform"}}
maintenance = {every = 480, takes = 25}
energy = {processing = 20, setup = 10, idle = 5, down = 1}

[products.memory]
share = 2
route = [
    {group = "wet", time = {mean = 15, kind = "gamma", cv = 0.5}, batch = "acid", batch_max = 2},
    {group = "litho", time = 12, setup = "mask 1", transport = 3, rework = {probability = 0.2}},
    {group = "wet", time = 9},
]

[products.logic]
weight = 3
due_factor = [1, 2]
route = [
    {group = "litho", time = {mean = 10, kind = "lognormal"}, setup = "mask 2"},
    {group = "wet", time = {mean = 20, kind = "gamma", cv = 0.5}, batch = "acid", batch_max = 2},
]
"""
QUEUE = """
ticks = 1000
slots = {slots}
[groups.station]
[products.customer]
route = [["station", {{mean = 1, kind = "exponential"}}]]
release = {{mean = 1.25, kind = "exponential"}}
"""
# Three jobs on three machines; the shortest operation first takes 12.
SHOP = "3 3\n0 3 1 2 2 2\n0 2 2 1 1 4\n1 4 2 3 0 1\n"
FRAGILE = """
releases = [[0, "chip"], [0, "chip"], [5, "chip"], [90, "chip"]]
[groups.only]
breakdown = {until = {mean = 30, kind = "exponential"}, repair = 5}
[products.chip]
route = [["only", 10], ["only", 6.5]]
"""
# A batch of two that waits for one lot more than there is.
STUCK = """
releases = [[0, "chip"], [0, "chip"], [0, "chip"]]
[groups.oven]
[products.chip]
route = [{group = "oven", time = 5, batch = "bake", batch_min = 2, batch_max = 2}]
"""
RUN = ["fab", "run", "tiny.toml", "--rule", "FIFO"]
PICTURES = ("gantt.png", "wip.png", "utilisation.png", "cycle_times.png", "tardiness.png")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """The current directory, with the fabs above."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path)
    return tmp_path


def write(folder):
    for name, text in {
        "tiny.toml": TINY,
        "queue.toml": QUEUE.format(slots=60),
        "narrow.toml": QUEUE.format(slots=3),
        "fragile.toml": FRAGILE,
        "stuck.toml": STUCK,
        "shop.txt": SHOP,
    }.items():
        (folder / name).write_text(text)


def tree(folder):
    return {p.relative_to(folder): p.is_file() and p.read_bytes() for p in folder.rglob("*")}


@pytest.fixture
def refused(folder, capsys):
    """A function that gives bad input and returns the sentence that answers it.

    It holds on the way that the exit code is 2 and that no file was made or changed. What was
    announced before is `refused.out`.
    """

    def refused(*words):
        before = tree(folder)
        assert main(words) == 2
        refused.out, err = capsys.readouterr()
        assert err.startswith("rlax-lab: ")
        assert err.endswith("\n")
        assert err.count("\n") == 1
        assert tree(folder) == before
        return err.removeprefix("rlax-lab: ").rstrip("\n")

    return refused


def said(words, capsys):
    assert main(words) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out


def rows(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """A finished run of the tiny fab, from tick 0 on; its folder is relative."""
    folder = tmp_path_factory.mktemp("ran")
    write(folder)
    before = Path.cwd()
    os.chdir(folder)
    try:
        words = [*RUN, "--replications", "3", "--days", "4", "--warmup", "0", "--out", "new/out"]
        assert main(words) == 0
    finally:
        os.chdir(before)
    return folder / "new" / "out", words


# Lists.


@pytest.mark.parametrize("words", [["fab"], ["fab", "-h"], ["fab", "--help"]])
def test_help_lists_commands(capsys, words):
    out = said(words, capsys)
    for command in ("list", "describe", "rules", "run", "compare"):
        assert f"\n  {command} " in out


@pytest.mark.parametrize(
    ("command", "flags"),
    [
        ("list", []),
        ("describe", ["instance", "--seed"]),
        ("rules", []),
        ("run", ["--rule", "--replications", "--days", "--warmup", "--seed", "--out", "--trace"]),
        ("compare", ["--rules", "--replications", "--days", "--warmup", "--seed", "--out"]),
    ],
)
def test_help_of_commands(capsys, command, flags):
    with pytest.raises(SystemExit) as stopped:
        main(["fab", command, "--help"])
    assert stopped.value.code == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"usage: rlax-lab fab {command}")
    for flag in flags:
        assert flag in shown


def test_list(capsys):
    """Every ready-made fab in a row, with its size and load."""
    header, *lines = said(["fab", "list"], capsys).splitlines()
    assert header.split()[:4] == ["name", "groups", "tools", "products"]
    names = ours("fab.library").NAMES
    assert [line.split()[0] for line in lines] == list(names)
    shown = dict(zip(names, lines, strict=True))
    assert shown["seed-10x50"].split()[7:9] == ["50", "CONWIP"]
    assert " 0.80 " in shown["M/M/1"]
    assert all(ours("fab.library").about(name) in line for name, line in shown.items())


def test_describe(capsys):
    """Groups with what happens at them, products with their routes."""
    out = said(["fab", "describe", "tiny.toml"], capsys)
    title, ticks, _, _, *lines = out.splitlines()
    assert title == (
        "tiny: 2 groups, 3 tools, 2 products, 5 operations; 6 lots at all times (CONWIP)"
    )
    assert ticks == "times are in minutes, 10 ticks each; runs have up to 1.3194e+05 days"
    wet, litho, _, _, memory, logic = lines
    assert wet.split()[:4] == ["wet", "2", "-", "3"]
    for feature in ("batches of 1 to 2", "fails after 200 busy for 20", "after 20 lots for 7"):
        assert feature in wet
    for feature in ("2 setup states", "fails after 300 for 30", "every 480 for 25", "rework 20 %"):
        assert feature in litho
    assert memory.split()[:3] == ["memory", "3", "36"]
    assert "66.7 % of lots" in memory
    assert logic.split()[:3] == ["logic", "2", "30"]
    assert "1 to 2 x work" in logic


@pytest.mark.parametrize(
    ("fab", "says"),
    [
        ("queue.toml", ["0.800", "every 1.25 (exponential)", "up to 60 lots at once"]),
        ("job-shop:shop.txt", ["a list of 3 releases", "1 lot at 0", "job2"]),
        ("fragile.toml", ["4 lots at 0 to 90"]),
    ],
)
def test_describe_releases(capsys, fab, says):
    out = said(["fab", "describe", fab], capsys)
    for text in says:
        assert text in out


def test_seed_of_a_family(capsys):
    """A random fab is another one with another seed, and the same with the same."""
    outs = [said(["fab", "describe", "seed-10x50", "--seed", s], capsys) for s in ("0", "0", "1")]
    assert outs[0] == outs[1] != outs[2]


def test_rules_are_listed(capsys):
    """Every key has a line, with its parameters, and every example is a rule."""
    out = said(["fab", "rules"], capsys)
    rules = ours("fab.rules")
    starts = [line.split("  ")[0] for line in out.splitlines()]
    assert set(rules.KEYS) <= set(starts)
    assert {"ATCS(k1=2, k2=0.1)", "FSMCT(interval, factor=2)"} <= set(starts)
    assert "Weighted shortest processing time." in out
    for rule in fab_commands.split_rules(out.rsplit(": ", 1)[1]):
        rules.parse(rule)


def test_rules_are_split_outside_brackets():
    """A comma in brackets is part of a rule."""
    text = "FIFO,ATCS(4.5,0.01)@0.625, setup>weight>EDD"
    assert fab_commands.split_rules(text) == ["FIFO", "ATCS(4.5,0.01)@0.625", "setup>weight>EDD"]


# A run.


def test_run_writes_everything(ran):
    folder, words = ran
    names = {"summary.json", "trace.csv", "report.html", *PICTURES}
    assert {path.name for path in folder.iterdir()} == names
    for name in PICTURES:
        pixels = image.imread(folder / name)
        assert min(pixels.shape[:2]) > 200
        assert pixels.std() > 0.02
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["command"] == f"rlax-lab {shlex.join(words)}"
    assert summary["instance"] == "tiny.toml"
    assert (summary["rules"], summary["seed"], summary["replications"]) == (["FIFO"], 0, 3)
    assert (summary["days"], summary["warmup"]) == (4, 0)
    assert {"hardware", "versions", "commit"} <= set(summary)


def test_summary_is_what_the_simulation_gives(ran):
    """The figures of the replications, with t-intervals of their means."""
    folder, _ = ran
    (result,) = json.loads((folder / "summary.json").read_text())["results"]
    again = simulate(ours("fab.library").load("tiny.toml"), "FIFO", 3, 4.0, 0.0, 0)
    for name, statistic in result["figures"].items():
        values = again.figures[name]
        np.testing.assert_allclose(statistic["per_replication"], values)
        assert statistic["mean"] == pytest.approx(values.mean())
        interval = stats.t.interval(0.95, 2, values.mean(), max(stats.sem(values), 1e-300))
        assert statistic["ci95"] == pytest.approx(list(interval))
    assert result["figures"]["energy_per_lot"]["mean"] > 0
    assert set(result["groups"]) == {"wet", "litho"}
    for parts in result["groups"].values():
        assert sum(parts.values()) == pytest.approx(1)
    assert result["dispatches"] == again.dispatches
    assert len(again.cycle_time) == sum(result["figures"]["finished"]["per_replication"])
    cycle = np.bincount(again.left_replication, again.cycle_time / 10)
    cycle /= np.bincount(again.left_replication)
    np.testing.assert_allclose(cycle, result["figures"]["cycle_time"]["per_replication"])


def test_trace_agrees_with_figures():
    """What the trace of replication 0 adds up to is what was measured."""
    again = simulate(ours("fab.library").load("tiny.toml"), "FIFO", 3, 4.0, 0.0, 0)
    trace, last, tools = again.trace, 4 * 14400, np.array([2, 1])

    def inside(start, end):
        return np.maximum(np.minimum(end, last) - np.maximum(start, 0), 0)

    def total(groups, ticks):
        return np.bincount(groups, ticks, minlength=2) / (tools * last)

    np.testing.assert_array_equal(
        trace.end - trace.start, trace.setup + trace.processing + trace.down
    )
    measured = {name: again.figures[name][0] for name in ("processing", "setup", "down")}
    down = total(trace.down_group, inside(trace.down_start, trace.down_end))
    np.testing.assert_allclose(down, measured["down"])
    # Repairs lie within operations, at most one operation of a tool in another.
    whole = trace.end <= last
    for name in ("processing", "setup"):
        sums = total(trace.group[whole], getattr(trace, name)[whole])
        assert np.all(sums <= measured[name] + 1e-12)
        cut = total(trace.group[~whole], inside(trace.start, trace.end)[~whole])
        assert np.all(measured[name] <= sums + cut + 1e-12)
    busy = inside(trace.start, trace.end)
    idle = [total(trace.group, busy), measured["processing"] + measured["setup"]]
    within = np.zeros(2)
    for d in range(len(trace.down_start)):
        mine = (trace.group == trace.down_group[d]) & (trace.tool == trace.down_tool[d])
        mine &= (trace.start <= trace.down_start[d]) & (trace.down_end[d] <= trace.end)
        length = inside(trace.down_start[d], trace.down_end[d])
        within += total(trace.down_group[d : d + 1], [length if mine.any() else 0])
    np.testing.assert_allclose(idle[0] - within, idle[1])
    # Lots: six in the fab at any time, and their mean time in it.
    ticks = np.arange(0, last, 97.0)
    here, waits = fab_plots.lots_over_time(trace, ticks, 2)
    assert np.all(here.sum(0) == 6)
    assert np.all((waits >= 0) & (waits <= 6))
    assert 0 < waits.mean() < 6
    left = (trace.exit < last) & (trace.exit > 0)
    assert left.sum() == again.figures["finished"][0]
    cycle_time = (trace.exit - trace.release)[left].mean() / 10
    assert cycle_time == pytest.approx(again.figures["cycle_time"][0])


def test_trace_file(ran):
    """Every dispatch: no tool does two things at once, no lot is in two places."""
    folder, _ = ran
    table = rows(folder / "trace.csv")
    (result,) = json.loads((folder / "summary.json").read_text())["results"]
    by_tool, by_lot = defaultdict(set), defaultdict(list)
    members = defaultdict(list)
    for row in table:
        start, middle, end, down = (float(row[x]) for x in ("start", "setup_end", "end", "down"))
        assert 0 <= start <= middle < end
        assert 0 <= down < end - start
        assert (row["group"], row["tool"]) in {("wet", "1"), ("wet", "2"), ("litho", "1")}
        if row["group"] == "wet":
            assert row["tool"] in ("1", "2")
            assert middle - start <= down + 1e-9  # there are no setups, but repairs may come first
        by_tool[row["group"], row["tool"]].add((start, end))
        by_lot[row["lot"]].append((start, end, row["product"], int(row["operation"])))
        members[row["dispatch"]].append((row["group"], start, end))
    assert len(members) == max(int(row["dispatch"]) for row in table) + 1
    assert len(members) < result["dispatches"]
    assert {len(batch) for batch in members.values()} == {1, 2}
    for batch in members.values():
        assert len(set(batch)) == 1
    for spans in (*by_tool.values(), *map(sorted, by_lot.values())):
        ordered = sorted(spans)
        assert all(a[1] <= b[0] for a, b in itertools.pairwise(ordered))
    again = set()
    for lot in by_lot.values():
        assert len({product for _, _, product, _ in lot}) == 1
        steps = np.diff([operation for _, _, _, operation in sorted(lot)])
        again |= set(steps.tolist())
    assert again == {0, 1}  # rework repeats an operation
    assert [float(row["start"]) for row in table] == sorted(float(row["start"]) for row in table)
    # The tools' time in use, from the file, is what was measured for replication 0, up to the
    # operations that are under way at the end.
    last = 4 * 1440.0
    use = {d: (x[0][0], min(x[0][2], last) - x[0][1]) for d, x in members.items()}
    repairs = {row["dispatch"]: float(row["down"]) for row in table}
    plan = ours("fab.library").load("tiny.toml")
    figures = simulate(plan, "FIFO", 3, 4.0, 0.0, 0).figures
    for g, (group, tools) in enumerate((("wet", 2), ("litho", 1))):
        ticks = sum(t - repairs[d] for d, (name, t) in use.items() if name == group)
        measured = (figures["processing"] + figures["setup"])[0, g]
        assert ticks / (tools * last) == pytest.approx(measured, abs=50 / last)


def test_run_says_where_it_stands(capsys, monkeypatch):
    """Without a terminal: the plan, progress in days, speed, the figures, the files.

    A long trace is written only where it is asked for.
    """
    monkeypatch.setattr(fab_simulate._Progress, "EVERY", 0.0)
    monkeypatch.setattr(fab_simulate, "_ROWS", 10)
    out = said([*RUN, "--replications", "3", "--days", "4", "--out", "out"], capsys)
    lines = out.splitlines()
    assert lines[0] == "tiny under FIFO: 3 replications, 4 days, the first 2 as warm-up"
    assert "/4 days x 3  " in lines[1]
    assert lines[1].startswith("  FIFO  ")
    assert " dispatches/s" in lines[1]
    assert any(line.startswith("  FIFO: ") and " dispatches in " in line for line in lines)
    for text in ("cycle time, minutes", "flow factor", "tardiness, minutes", "on time, %"):
        assert f"\n{text}" in out
    for text in ("weighted tardiness, minutes", "lots/day", "utilisation, %", "energy per lot"):
        assert f"\n{text}" in out
    assert lines[-2].startswith("out: summary.json, ")
    assert lines[-1].startswith("--trace writes the ")
    assert not Path("out/trace.csv").exists()


def test_job_shop(capsys, monkeypatch):
    """A list of releases runs until all lots have left; one replication has no interval."""
    monkeypatch.setattr(fab_simulate, "_ROWS", 8)
    words = ["fab", "run", "job-shop:shop.txt", "--rule", "SPT", "--replications", "1"]
    out = said([*words, "--trace", "--out", "out"], capsys)
    assert "--trace" not in out
    assert "until all lots have left" in out
    assert "\nmakespan, minutes            12 " in out
    summary = json.loads(Path("out/summary.json").read_text())
    (result,) = summary["results"]
    assert summary["days"] is None
    figures = {name: x["mean"] for name, x in result["figures"].items()}
    assert figures["makespan"] == 12
    assert figures["finished"] == 3
    assert figures["utilisation"] == pytest.approx(22 / 36)
    assert figures["cycle_time"] == pytest.approx((12 + 8 + 8) / 3)
    assert result["figures"]["makespan"]["ci95"] == [None, None]
    table = rows(Path("out/trace.csv"))
    assert len(table) == 9
    assert max(float(row["end"]) for row in table) == 12
    first = {row["group"]: row["product"] for row in table if float(row["start"]) == 0}
    assert first == {"machine0": "job1", "machine1": "job2"}


def test_clock_stops_with_the_last_lot(capsys):
    """Breakdowns after the last lot left do not count, and each replication ends by itself."""
    words = ["fab", "run", "fragile.toml", "--rule", "FIFO", "--replications", "3"]
    said([*words, "--out", "out"], capsys)
    (result,) = json.loads(Path("out/summary.json").read_text())["results"]
    makespan = result["figures"]["makespan"]["per_replication"]
    table = rows(Path("out/trace.csv"))
    assert makespan[0] == max(float(row["end"]) for row in table)
    assert len(set(makespan)) > 1
    for value, use in zip(
        makespan, result["figures"]["utilisation"]["per_replication"], strict=True
    ):
        assert use == pytest.approx(4 * 16.5 / value)
    parts = result["groups"]["only"]
    assert sum(parts.values()) == pytest.approx(1)
    assert 0 < parts["down"] < 0.6


def test_nothing_left_yet(capsys):
    """Figures of lots that did not leave are missing, not numbers."""
    words = [*RUN, "--replications", "2", "--days", "0.001", "--warmup", "0", "--out", "out"]
    out = said(words, capsys)
    assert "no lot left" in out
    text = Path("out/summary.json").read_text()
    assert "NaN" not in text
    (result,) = json.loads(text)["results"]
    assert result["figures"]["cycle_time"]["per_replication"] == [None, None]
    assert image.imread("out/cycle_times.png").std() > 0


# A comparison.


def test_compare(capsys):
    """Paired differences from the first rule, on the same random numbers."""
    rules = "FIFO,ATCS(4.5,0.01)@0.625"
    words = ["fab", "compare", "tiny.toml", "--rules", rules, "--replications", "4"]
    out = said([*words, "--days", "3", "--seed", "5", "--out", "out"], capsys)
    summary = json.loads(Path("out/summary.json").read_text())
    assert summary["rules"] == ["FIFO", "ATCS(4.5,0.01)@0.625"]
    assert (summary["days"], summary["warmup"], summary["seed"]) == (3, 1.5, 5)
    first, second = summary["results"]
    assert "minus_first" not in first
    for name, statistic in second["minus_first"].items():
        pair = [x["figures"][name]["per_replication"] for x in (second, first)]
        difference = np.subtract(*pair)
        np.testing.assert_allclose(statistic["per_replication"], difference)
        interval = stats.ttest_rel(*pair).confidence_interval() if difference.std() > 0 else (0, 0)
        assert statistic["ci95"] == pytest.approx(list(interval))
    assert second["minus_first"]["cycle_time"]["mean"] != 0
    assert out.count("\n  FIFO ") == out.count("\n  ATCS(4.5,0.01)@0.625 ")
    assert "minus FIFO" in out
    pictures = {"gantt-1.png", "gantt-2.png", *PICTURES[1:]}
    names = {path.name for path in Path("out").iterdir()}
    assert names == {*pictures, "summary.json", "report.html"}
    for name in pictures:
        assert image.imread(Path("out") / name).std() > 0.02
    page = Page()
    page.feed(Path("out/report.html").read_text())
    assert page.open == []
    assert "minus FIFO" in page.text
    # Everything is inside, pixel by pixel, and nothing is fetched.
    assert {base64.b64decode(data) for data in page.pictures} == {
        (Path("out") / name).read_bytes() for name in pictures
    }
    assert page.others == []


class Page(HTMLParser):
    """A page's text, pictures, other addresses, and what it never closes."""

    def __init__(self) -> None:
        super().__init__()
        self.text, self.open, self.pictures, self.others = "", [], [], []

    def handle_starttag(self, tag: str, attributes: Any) -> None:
        if tag not in {"meta", "img", "br"}:
            self.open.append(tag)
        for name, value in attributes:
            if name == "src" and value.startswith("data:image/png;base64,"):
                self.pictures.append(value.partition(",")[2])
            elif name in {"src", "href"} or tag in {"link", "script"}:
                self.others.append(value)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


# Bad input.

SENTENCES = [
    (["lsit"], "there is no command 'fab lsit'; did you mean 'list'?"),
    (
        ["xyzzy"],
        "there is no command 'fab xyzzy'; the commands are list, describe, rules, run, compare, "
        "evaluate, pool, train, evolve, value, export.",
    ),
    (["list", "word"], "there is no option 'word'; see rlax-lab fab list --help."),
    (["describe", "mini-fb"], "there is no fab 'mini-fb'; did you mean 'mini-fab'?"),
    (
        ["describe"],
        "The following arguments are required: instance; see rlax-lab fab describe --help.",
    ),
    (
        ["run", "tiny.toml"],
        "The following arguments are required: --rule; see rlax-lab fab run --help.",
    ),
    (
        ["run", "tiny.toml", "--rule", "FIFI"],
        "rule 'FIFI': there is no key 'FIFI'; did you mean 'FIFO'?",
    ),
    (
        ["compare", "tiny.toml", "--rules", "FIFO,ATCS(1,2"],
        "rule 'ATCS(1,2': its brackets do not match.",
    ),
    (
        ["compare", "tiny.toml", "--rules", "FIFO,ATCS(1,2,3)"],
        "rule 'ATCS(1,2,3)': ATCS takes the numbers (k1, k2).",
    ),
    (
        ["compare", "tiny.toml", "--rules", "FIFO"],
        "--rules is 'FIFO', but comparing needs at least two rules.",
    ),
    (
        ["compare", "tiny.toml", "--rules", "FIFO,EDD,FIFO"],
        "--rules has the rule 'FIFO' twice.",
    ),
    (
        [*RUN[1:], "--replication", "3"],
        "there is no option '--replication'; did you mean '--replications'?",
    ),
    (
        [*RUN[1:], "--replications", "0"],
        "replications is 0, but must be a whole number at least 1.",
    ),
    ([*RUN[1:], "--days", "0"], "days is 0.0, but must be a finite number above 0."),
    ([*RUN[1:], "--days", "many"], "days is 'many', but must be a finite number above 0."),
    (
        [*RUN[1:], "--warmup=-1"],
        "warmup is -1.0, but must be a finite number at least 0.",
    ),
    (
        [*RUN[1:], "--days", "3", "--warmup", "3"],
        "days is 3, but must be above warmup, which is 3.",
    ),
    (
        [*RUN[1:], "--days", "3.0000001", "--warmup", "3"],
        "days is 3, but must be above warmup by at least a tick of 6 seconds.",
    ),
    (
        [*RUN[1:], "--days", "2e5"],
        "days is 200000, but must be at most 131944.44 for this fab, whose ticks are 6 seconds "
        "(fewer `ticks` per minute allow more).",
    ),
    (
        ["run", "fragile.toml", "--rule", "FIFO", "--warmup", "1"],
        "--warmup needs --days, because releases are a list and the run ends when all lots have "
        "left.",
    ),
    (
        [*RUN[1:], "--seed", "-1"],
        "seed is -1, but must be a whole number at least 0 and at most 2147483647.",
    ),
]


@pytest.mark.parametrize(("words", "sentence"), SENTENCES, ids=lambda x: " ".join(x)[:40])
def test_bad_input(refused, words, sentence):
    """One sentence names what is wrong, and what is allowed or nearest."""
    assert refused("fab", *words) == sentence
    assert refused.out == ""


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("groups = 1", "groups is 1, but must be a table."),
        ("[groups.a]\n", "the fab has no products."),
        ("this is not toml", "the fab file bad.toml cannot be read"),
        (TINY.replace('group = "litho"', 'group = "lito"'), "did you mean 'litho'?"),
        (TINY.replace("conwip", "conwipp"), "did you mean 'conwip'?"),
    ],
)
def test_bad_descriptions(refused, folder, text, says):
    """A description that cannot be used is answered by its own sentence."""
    (folder / "bad.toml").write_text(text)
    for words in (["describe", "bad.toml"], ["run", "bad.toml", "--rule", "FIFO"]):
        assert says in refused("fab", *words)


@pytest.mark.parametrize(
    "name", ["none.toml", "job-shop:tiny.toml", "job-shop:.", "fab4r:none", "fab4r:."]
)
def test_files_that_are_no_fab(refused, name):
    """A file that is missing, a folder, or something else is named."""
    assert name.partition(":")[2] in refused("fab", "describe", name)


def test_files_that_are_no_text(refused, folder):
    (folder / "binary").write_bytes(b"\xff\xfe")
    assert "binary is no job shop" in refused("fab", "describe", "job-shop:binary")


@pytest.mark.parametrize("out", ["file", "file/below"])
def test_folder_is_a_file(refused, folder, out):
    (folder / "file").write_text("precious")
    sentence = refused(*RUN, "--days", "1", "--out", out)
    assert sentence.startswith(out)
    assert out != "file" or sentence == "file is a file; --out must be a folder."


def test_folder_holds_something(refused, folder, ran):
    """Nothing is overwritten, not even by the same run."""
    (folder / "notes").mkdir()
    (folder / "notes" / "thesis.txt").write_text("precious")
    sentence = "notes holds other files; give another --out."
    assert refused(*RUN, "--out", "notes") == sentence
    (folder / "notes" / "summary.json").write_text("{}")
    sentence = "notes holds another run; give another --out."
    assert refused(*RUN, "--out", "notes") == sentence


def test_too_few_slots(refused):
    """The number of slots, and what can be done; the new folder is taken away again."""
    words = ["fab", "run", "narrow.toml", "--rule", "FIFO", "--days", "2", "--replications", "2"]
    sentence = refused(*words, "--out", "new/folder")
    assert sentence.startswith("fab 'narrow' has too few slots: all 3 were taken by day 0.")
    assert sentence.endswith(
        "so `slots` in its description must allow more, unless the fab is unstable under the rule "
        "FIFO."
    )
    with pytest.raises(InputError, match="too few slots"):
        simulate(ours("fab.library").load("narrow.toml"), "FIFO", 2, 2.0, 0.0, 0)


def test_lots_that_never_leave(refused):
    words = ["fab", "run", "stuck.toml", "--rule", "FIFO", "--replications", "1"]
    assert refused(*words, "--out", "out") == (
        "1 lot never leaves fab 'stuck' under the rule FIFO: waiting for a batch that never fills "
        "up."
    )


def test_days_by_default():
    """Long enough for the route and for many operations; a list ends by itself."""
    load = ours("fab.library").load
    assert days_by_default(load("job-shop:shop.txt")) is None
    assert days_by_default(load("queue.toml")) == 20  # 20000 operations of 1.25 minutes: 17.4
    assert 60 <= days_by_default(load("fab-20x300")) <= 400
    assert 10 <= days_by_default(load("seed-10x50")) <= 100


def test_users_own_envs_folder(folder):
    """A folder called envs in the user's repository is theirs."""
    (folder / "envs" / "fab").mkdir(parents=True)
    for package in ("envs", "envs/fab"):
        (folder / package / "__init__.py").write_text("raise RuntimeError('not this one')\n")
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "rlax_lab", "fab", "describe", "tiny.toml"]
    done = subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("tiny: 2 groups")
