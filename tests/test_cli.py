"""The command line: what it answers to bad input, its help, and its commands on a real run."""

import dataclasses
import itertools
import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import gymnax
import jax
import jax.numpy as jnp
import pytest
from gymnax.environments import spaces

from rlax_lab import cli, commands, dqn, ppo, runs
from rlax_lab.cli import ALGORITHMS, _preset, main
from tests.probes import ConstantReward

ROOT = Path(__file__).parents[1]
CARTPOLE = ["train", "ppo", "--env", "CartPole-v1"]
TINY = [
    *("--num-envs", "8", "--num-steps", "8", "--num-epochs", "1", "--num-minibatches", "2"),
    *("--hidden-sizes", "8", "--total-steps", "1e3", "--reports", "4"),
    *("--seeds", "2", "--eval-episodes", "4"),
]


class Raises(ConstantReward):
    """Its step fails."""

    def step_env(self, *args):
        raise RuntimeError("the wheel\nis broken")


class Unbounded(ConstantReward):
    """Actions without bounds."""

    def action_space(self, params=None):
        return spaces.Box(low=-jnp.inf, high=jnp.inf, shape=(1,))


class DictActions(ConstantReward):
    """Actions of a kind that no policy has."""

    def action_space(self, params=None):
        return spaces.Dict({"gas": spaces.Discrete(2)})


class LongMask(ConstantReward):
    """A mask with more entries than there are actions."""

    def show(self, state):
        return {"observation": jnp.zeros(1), "action_mask": jnp.ones(3, bool)}


def tree(folder):
    return {p.relative_to(folder): p.is_file() and p.read_bytes() for p in folder.rglob("*")}


@pytest.fixture
def refused(tmp_path, monkeypatch, capsys):
    """A function that gives bad input to the command line, and returns the sentence it answers.

    It holds on the way that the exit code is 2, that nothing else is said, and that nothing in the
    current directory was made or changed.
    """
    monkeypatch.chdir(tmp_path)

    def refused(*words):
        before = tree(tmp_path)
        assert main(words) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("rlax-lab: ")
        assert err.endswith("\n")
        assert err.count("\n") == 1
        assert tree(tmp_path) == before
        return err.removeprefix("rlax-lab: ").rstrip("\n")

    return refused


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run of two seeds."""
    folder = tmp_path_factory.mktemp("cli") / "run"
    assert main([*CARTPOLE, *TINY, "--out", str(folder)]) == 0
    return folder


def python(folder, *words, **variables):
    """A fresh interpreter with `folder` as its current directory."""
    environ = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
    command = [sys.executable, *words]
    return subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True)


NAMES = [
    (["trian"], "there is no command 'trian'; did you mean 'train'?"),
    (
        ["xyzzy"],
        "there is no command 'xyzzy'; the commands are train, sweep, evaluate, plot, compare, "
        "envs, fab.",
    ),
    (
        ["--hepl"],
        "there is no command '--hepl'; the commands are train, sweep, evaluate, plot, compare, "
        "envs, fab.",
    ),
    (["train", "poo"], "there is no algorithm 'poo'; did you mean 'ppo'?"),
    (["train", "PPO2"], "there is no algorithm 'PPO2'; did you mean 'ppo'?"),
    (
        ["train", "zzz"],
        f"there is no algorithm 'zzz'; the algorithms are {', '.join(ALGORITHMS)}.",
    ),
    (
        ["train", "ppo", "--env", "cartpole"],
        "there is no environment 'cartpole', the nearest is 'CartPole-v1' (`rlax-lab envs` lists "
        "all, and module:callable gives one of your own)",
    ),
    (
        ["train", "ppo", "--env", "Qwertyuiop"],
        "there is no environment 'Qwertyuiop' (`rlax-lab envs` lists all, and module:callable "
        "gives one of your own)",
    ),
    (
        [*CARTPOLE, "--learnin-rate", "1"],
        "there is no option '--learnin-rate'; did you mean '--learning-rate'?",
    ),
    (
        [*CARTPOLE, "--num-env=8"],
        "there is no option '--num-env=8'; did you mean '--num-envs'?",
    ),
    ([*CARTPOLE, "--xyz"], "there is no option '--xyz'; see rlax-lab train ppo --help."),
    ([*CARTPOLE, "word"], "there is no option 'word'; see rlax-lab train ppo --help."),
    (
        ["evaluate", "run", "--epsodes", "3"],
        "there is no option '--epsodes'; did you mean '--episodes'?",
    ),
    (["envs", "word"], "there is no option 'word'; see rlax-lab envs --help."),
    (
        ["train", "dqn", "--preset", "rainbo"],
        "there is no preset 'rainbo'; did you mean 'rainbow'?",
    ),
    (
        ["train", "ppo"],
        "--env is missing: an environment's name, or module:callable.",
    ),
    (
        ["evaluate"],
        "The following arguments are required: run; see rlax-lab evaluate --help.",
    ),
    (
        ["plot", "run"],
        "The following arguments are required: --out; see rlax-lab plot --help.",
    ),
    (
        [*CARTPOLE, "--learning-rate"],
        "Argument --learning-rate: expected one argument; see rlax-lab train ppo --help.",
    ),
]


@pytest.mark.parametrize(("words", "sentence"), NAMES, ids=lambda x: " ".join(x)[:40])
def test_unknown_names(refused, words, sentence):
    """An unknown name is repeated with the nearest that exists; a missing one is named."""
    assert refused(*words) == sentence


POSITIVE = "must be a finite number above 0."
COUNT = "must be a whole number at least 1."
VALUES = [
    ("--learning-rate", "-1", f"learning_rate is -1.0, but {POSITIVE}"),
    ("--learning-rate", "0", f"learning_rate is 0.0, but {POSITIVE}"),
    ("--learning-rate", "nan", f"learning_rate is nan, but {POSITIVE}"),
    ("--learning-rate", "inf", f"learning_rate is inf, but {POSITIVE}"),
    ("--learning-rate", "abc", f"learning_rate is 'abc', but {POSITIVE}"),
    ("--learning-rate", "", f"learning_rate is '', but {POSITIVE}"),
    ("--max-grad-norm", "-0.5", f"max_grad_norm is -0.5, but {POSITIVE}"),
    ("--max-grad-norm", "no", f"max_grad_norm is 'no', but {POSITIVE}"),
    ("--target-kl", "0", f"target_kl is 0.0, but {POSITIVE}"),
    ("--entropy-coef", "-1", "entropy_coef is -1.0, but must be a finite number at least 0."),
    ("--gamma", "1.5", "gamma is 1.5, but must be a finite number at least 0 and at most 1."),
    ("--log-std-init", "inf", "log_std_init is inf, but must be a finite number."),
    ("--num-envs", "0", f"num_envs is 0, but {COUNT}"),
    ("--num-envs", "-8", f"num_envs is -8, but {COUNT}"),
    ("--num-envs", "2.5", f"num_envs is 2.5, but {COUNT}"),
    ("--num-envs", "nan", f"num_envs is 'nan', but {COUNT}"),
    ("--num-envs", "1e400", f"num_envs is '1e400', but {COUNT}"),
    ("--num-envs", "lots", f"num_envs is 'lots', but {COUNT}"),
    ("--total-steps", "0", f"total_steps is 0, but {COUNT}"),
    ("--total-steps", "inf", f"total_steps is 'inf', but {COUNT}"),
    ("--seeds", "0", f"seeds is 0, but {COUNT}"),
    ("--reports", "0", f"reports is 0, but {COUNT}"),
    ("--eval-episodes", "0", f"eval_episodes is 0, but {COUNT}"),
    (
        "--checkpoint-seconds",
        "nan",
        "checkpoint_seconds is nan, but must be a finite number at least 0.",
    ),
    ("--seed", "-1", "seed is -1, but must be a whole number at least 0 and at most 2147483647."),
    (
        "--seed",
        "2147483648",
        "seed is 2147483648, but must be a whole number at least 0 and at most 2147483647.",
    ),
    ("--hidden-sizes", "64,x", "hidden_sizes is '64,x', but must be whole numbers above 0."),
    ("--hidden-sizes", "64,0", "hidden_sizes is (64, 0), but must be whole numbers above 0."),
    (
        "--objective",
        "clipp",
        "objective is 'clipp', but must be one of clip, kl_penalty; did you mean 'clip'?",
    ),
    ("--objective", "xyz", "objective is 'xyz', but must be one of clip, kl_penalty."),
    (
        "--torso",
        "nature_cnn",
        "torso is 'nature_cnn', but observations have shapes [(4,)]; it takes one image [height, "
        "width, channels] of at least 36x36: use 'mlp'.",
    ),
]


@pytest.mark.parametrize(("flag", "value", "sentence"), VALUES, ids=lambda x: x[:24])
def test_bad_values(refused, flag, value, sentence):
    """A value that cannot be used is repeated, with what is allowed."""
    assert refused(*CARTPOLE, flag, value) == sentence


OF_OTHERS = [
    (
        "dqn --env Pendulum-v1",
        "DQN takes discrete actions, but the action space is Box(low=-2.0, high=2.0, shape=(1,), "
        "dtype=float32); PPO, A2C, A3C, actor-critic and REINFORCE take that.",
    ),
    (
        "dqn --env CartPole-v1 --priority-exponent 1.5",
        "priority_exponent is 1.5, but must be a finite number at least 0 and at most 1.",
    ),
    (
        "dqn --env CartPole-v1 --importance-exponent=-0.1",
        "importance_exponent is -0.1, but must be a finite number at least 0 and at most 1.",
    ),
    (
        "dqn --env CartPole-v1 --buffer-size 32",
        "buffer_size is 32, but must be at least batch_size = 64.",
    ),
    (
        "dqn --env CartPole-v1 --buffer-size 1100 --n-step 1200",
        "buffer_size is 1100, but must be at least n_step = 1200.",
    ),
    (
        "dqn --env CartPole-v1 --buffer-size 999",
        "buffer_size is 999, but must be at least learning_starts, in whole rows of num_envs, "
        "= 1000.",
    ),
    (
        "dqn --env CartPole-v1 --v-min 5 --v-max 5",
        "v_min is 5.0, but must be below v_max, which is 5.0.",
    ),
    (
        "a3c --env CartPole-v1 --num-workers 6",
        "num_workers is 6, which does not divide num_envs = 16; the nearest number that does is 4.",
    ),
    (
        "a2c --env CartPole-v1 --optimizer adm",
        "optimizer is 'adm', but must be one of rmsprop, adam; did you mean 'adam'?",
    ),
]


@pytest.mark.parametrize(("words", "sentence"), OF_OTHERS, ids=lambda x: x[:60])
def test_bad_values_of_the_other_algorithms(refused, words, sentence):
    """What one algorithm asks for that the others do not."""
    assert refused("train", *words.split()) == sentence


SEVERAL = [
    ("ppo --parts 0", f"parts is 0, but {COUNT}"),
    (
        "ppo --parts 3",
        "parts is 3, which does not divide num_envs = 256; the nearest number that does is 2.",
    ),
    ("a3c --parts 2", "parts is 2, but this algorithm runs in one part only."),
    ("ppo --devices 0", f"devices is 0, but {COUNT}"),
    ("ppo --devices half", f"devices is 'half', but {COUNT}"),
    ("ppo --devices 256", "devices is 256, but must be at most {devices}."),
    ("ppo --processes 0", f"processes is 0, but {COUNT}"),
    ("ppo --process -1", "process is -1, but must be a whole number at least 0."),
    ("ppo --process 1", "process is 1, but must be below processes = 1."),
    ("ppo --processes 2 --process 2", "process is 2, but must be below processes = 2."),
    ("ppo --processes 2", "--processes needs --coordinator, HOST:PORT of process 0."),
    *(
        (
            f"ppo --processes 2 --coordinator {place}",
            f"coordinator is '{place}', but must be HOST:PORT.",
        )
        for place in ("here", ":80", "here:", "here:http", "here:65536")
    ),
]


@pytest.mark.parametrize(("words", "sentence"), SEVERAL, ids=lambda x: x[:60])
def test_devices_and_processes_that_there_cannot_be(refused, words, sentence):
    """What cannot be divided, or met, is said before anything starts."""
    algo, *flags = words.split()
    sentence = sentence.format(devices=jax.device_count())
    assert refused("train", algo, "--env", "CartPole-v1", *flags) == sentence


def test_a_process_that_finds_no_other(refused, monkeypatch):
    """Where there is no such host, or nobody listens there."""
    monkeypatch.setattr(cli, "_PATIENCE", 0.1)
    share = [*CARTPOLE, "--processes", "2", "--process", "1", "--coordinator"]
    assert refused(*share, "localhost:1") == "process 0 is not at localhost:1: Connection refused."
    assert refused(*share, "no-such-host.invalid:80").startswith(
        "process 0 is not at no-such-host.invalid:80: "
    )


@pytest.mark.parametrize(("given", "nearest"), [("7", 8), ("5000", 2048), ("48", 32)])
def test_sizes_that_do_not_divide(refused, given, nearest):
    """The nearest size that does is named."""
    sizes = ["--num-envs", "64", "--num-steps", "32", "--num-minibatches", given]
    assert refused(*CARTPOLE, *sizes) == (
        f"num_minibatches is {given}, which does not divide the batch of num_envs * num_steps = "
        f"2048; the nearest number that does is {nearest}."
    )


@pytest.mark.parametrize("value", ["-inf", "-1e-3"])
def test_negative_values_that_look_like_options(refused, value):
    """Whatever argparse makes of them, the sentence names the field."""
    assert "learning" in refused(*CARTPOLE, "--learning-rate", value)


ENVIRONMENTS = {
    "tests.probes:WrongShape": "the observation of WrongShape is float32[1] after reset_env but "
    "float32[2] after step_env; both must be the same.",
    "tests.probes:DriftingDtype": "the observation of DriftingDtype is float32[1] after reset_env "
    "but int32[1] after step_env; both must be the same.",
    "tests.probes:VectorReward": "reward of VectorReward has shape (1,), but must be a scalar.",
    "tests.probes:FloatFlag": "terminated of FloatFlag is float32, but must be bool.",
    "tests.probes:NoFlags": "environment 'tests.probes:NoFlags': what was built, of type NoFlags, "
    "is no environment because it lacks is_truncated",
    "tests.test_cli:Raises": "the environment Raises cannot be reset and stepped: RuntimeError: "
    "the wheel is broken",
    "tests.test_cli:DictActions": "the action space "
    f"{DictActions().action_space()!r} is not supported; a discrete space, a tuple of discrete "
    "spaces, or a box is.",
    "tests.test_cli:LongMask": "the action mask has shape (3,), but the action space needs one "
    "entry for each of its 2 choices.",
    "tests.test_cli:tree": "environment 'tests.test_cli:tree': building it raised TypeError: "
    "tree() missing 1 required positional argument: 'folder'",
    "tests.test_cli:Unbonded": "environment 'tests.test_cli:Unbonded': there is no 'Unbonded' in "
    "module 'tests.test_cli', the nearest is 'Unbounded'",
    "no_such_module:Env": "environment 'no_such_module:Env': there is no module 'no_such_module' "
    "in the current directory or installed",
    ":Env": "environment ':Env' is not of the form module:callable",
}


@pytest.mark.parametrize(("env", "sentence"), ENVIRONMENTS.items(), ids=ENVIRONMENTS.keys())
def test_broken_environments(refused, env, sentence):
    """An environment that breaks the interface is named, with what it breaks."""
    assert refused("train", "ppo", "--env", env, *TINY, "--out", "run") == sentence


def test_squash_of_unbounded_actions(refused):
    """Nothing can be squashed into a box without walls."""
    space = Unbounded().action_space()
    env = ["--env", "tests.test_cli:Unbounded"]
    assert refused("train", "ppo", *env, "--squash", "tanh") == (
        f"squash is 'tanh', but the action space {space!r} is unbounded; use 'clip'."
    )


def test_folder_is_a_file(refused, tmp_path):
    """A file in the way is left alone, also where it stands for a folder above the run's."""
    (tmp_path / "file").write_text("precious")
    out = [*CARTPOLE, *TINY, "--out"]
    assert refused(*out, "file") == "file is a file; a run needs a folder."
    assert "file/run" in refused(*out, "file/run")


def test_folder_holds_something(refused, tmp_path, run):
    """Another run, other files and another program's checkpoints are left alone."""
    shutil.copytree(run, tmp_path / "other")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "thesis.txt").write_text("precious")
    (tmp_path / "model" / "checkpoints").mkdir(parents=True)
    (tmp_path / "model" / "checkpoints" / "weights.bin").write_text("precious")
    for folder, what in (("other", "another run"), ("notes", "other files")):
        assert refused(*CARTPOLE, *TINY, "--out", folder) == (
            f"{folder} holds {what}; give another --out, or --resume to go on with a run."
        )
    assert refused(*CARTPOLE, *TINY, "--out", "model").startswith("model holds other files")


def test_missing_run(refused):
    """Every command that needs a run says so where there is none."""
    assert refused("evaluate", "none") == "none holds no run: it has no config.json."
    assert refused("plot", "none", "--out", "x.png") == "There is no run folder none."
    resume = [*CARTPOLE, "--resume"]
    assert refused(*resume, "--out", "none") == "none holds no run: it has no config.json."
    assert refused(*resume) == "--resume needs --out, the folder of the run to resume."


def test_run_without_checkpoints(refused, tmp_path, run):
    """Its policy is gone: nothing to evaluate, nothing to resume."""
    shutil.copytree(run, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    sentence = "run/checkpoints holds no usable checkpoint."
    assert refused("evaluate", "run") == sentence
    assert refused(*CARTPOLE, "--out", "run", "--resume") == sentence


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"model": "bert"}', '{"algo": "ppo"}'])
def test_config_that_is_not_ours(refused, tmp_path, content):
    """Many programs keep a config.json: one that is damaged or another's is named."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text(content)
    assert "run/config.json" in refused("evaluate", "run")
    assert "run/config.json" in refused(*CARTPOLE, "--out", "run", "--resume")
    assert "run/config.json" in refused("plot", "run", "--out", "x.png")


def test_config_of_another_version(refused, tmp_path, run):
    """Fields and algorithms that do not exist are named."""
    shutil.copytree(run, tmp_path / "run")
    path = tmp_path / "run" / "config.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, "config": {**record["config"], "clip_rnage": 0.2}}))
    assert refused("evaluate", "run") == (
        "clip_rnage is not a field of the configuration; did you mean 'clip_range'?"
    )
    old = {name: value for name, value in record.items() if name != "parts"}
    path.write_text(json.dumps(old))
    assert refused("evaluate", "run") == (
        "run/config.json is not the record of a run: it lacks parts."
    )
    path.write_text(json.dumps({**record, "algo": "sarsa"}))
    assert refused("evaluate", "run") == "run holds a run of the unknown algorithm 'sarsa'."


def test_bad_evaluations(refused, run):
    """Episodes and seeds that cannot be played."""
    word = str(run)
    assert refused("evaluate", word, "--episodes", "0") == (
        "episodes is 0, but must be a whole number at least 1."
    )
    assert refused("evaluate", word, "--episodes", "x") == (
        "episodes is 'x', but must be a whole number at least 1."
    )
    assert refused("evaluate", word, "--seed", str(2**31)) == (
        "seed is 2147483648, but must be a whole number at least 0 and at most 2147483647."
    )


def test_bad_pictures(refused, tmp_path, run):
    """A picture that cannot be written."""
    (tmp_path / "file").write_text("precious")
    (tmp_path / "folder.png").mkdir()
    suffixes = "use .png, .pdf, .svg."
    plot = ["plot", str(run), "--out"]
    assert refused(*plot, "x.jpg") == f"A figure cannot be written as '.jpg'; {suffixes}"
    assert refused(*plot, "x") == f"A figure cannot be written without a suffix; {suffixes}"
    assert "file" in refused(*plot, "file/x.png")
    assert "folder.png" in refused(*plot, "folder.png")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["train", "poo"], "there is no algorithm 'poo'; did you mean 'ppo'?"),
        ([*CARTPOLE, "--num-envs", "0"], f"num_envs is 0, but {COUNT}"),
        (
            ["train", "ppo", "--env", "tests.probes:WrongShape"],
            ENVIRONMENTS["tests.probes:WrongShape"],
        ),
    ],
    ids=["algorithm", "value", "environment"],
)
def test_refusal_of_a_process(tmp_path, words, sentence):
    """A real process says its one line, exits with 2 and writes nothing."""
    done = python(tmp_path, "-m", "rlax_lab", *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"rlax-lab: {sentence}\n"
    assert tree(tmp_path) == {}


def text(words, capsys):
    """What the help of a command says, without white space, which wrapping changes."""
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code == 0
    return "".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("words", [[], ["-h"], ["--help"]])
def test_help_lists_commands(capsys, words):
    """The first thing that a user sees names every command."""
    assert main(words) == 0
    out = capsys.readouterr().out
    for command in ("train", "evaluate", "plot", "envs", "fab"):
        assert f"\n  {command} " in out


@pytest.mark.parametrize("words", [["train"], ["train", "--help"]])
def test_help_lists_algorithms(capsys, words):
    """Every algorithm with its one line, and the actions that it takes."""
    assert main(words) == 0
    out = capsys.readouterr().out
    assert set(ALGORITHMS) == {"reinforce", "actor_critic", "a2c", "a3c", "dqn", "ppo"}
    for name, module in ALGORITHMS.items():
        actions = "discrete" if name == "dqn" else "discrete, multi-discrete, continuous"
        assert f"  {name:13} {module.__doc__.splitlines()[0]} Actions: {actions}.\n" in out


def test_environments_are_listed_with_their_algorithms(capsys):
    """DQN takes discrete actions only; the others take all."""
    assert main(["envs"]) == 0
    rows = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert rows["name"].split()[-1] == "algorithms"
    assert rows["CartPole-v1"].endswith("500         all")
    assert rows["Pendulum-v1"].endswith("200         all but dqn")


def test_presets(capsys):
    """A preset is other defaults, which flags still override."""
    assert "--presetPRESET" in text(["train", "dqn", "--help"], capsys)
    assert "--preset" not in text(["train", "ppo", "--help"], capsys)
    given = _preset(dqn.PRESETS, "rainbow") | {"n_step": 5}
    assert commands.build(dqn.Config, given) == dataclasses.replace(dqn.RAINBOW, n_step=5)


@pytest.mark.parametrize("algo", ALGORITHMS)
def test_help_explains_every_field(capsys, algo):
    """Flag, meaning, choices and default of every field of the run and of the configuration."""
    shown = text(["train", algo, "--help"], capsys)
    classes = runs.Settings, cli.Processes, ALGORITHMS[algo].Config
    for field in itertools.chain.from_iterable(map(dataclasses.fields, classes)):
        default = "none" if field.default is None else str(field.default)
        if isinstance(field.default, tuple):
            default = ",".join(map(str, field.default))
        meaning, choices = field.metadata["text"], field.metadata["choices"]
        assert len(meaning) > 10, field.name
        if choices:
            meaning += f"; one of {', '.join(choices)}"
        assert f"--{field.name.replace('_', '-')}" in shown, field.name
        assert "".join(f"{meaning} (default {default})".split()) in shown, field.name
    for flag in ("--env", "--out", "--resume"):
        assert flag in shown


@pytest.mark.parametrize(
    ("command", "flags"),
    [("evaluate", ["run", "--episodes", "--seed"]), ("plot", ["runs", "--out"]), ("envs", [])],
)
def test_help_of_commands(capsys, command, flags):
    """Every command explains its options."""
    shown = text([command, "--help"], capsys)
    assert shown.startswith(f"usage:rlax-lab{command}")
    for flag in flags:
        assert flag in shown


def test_users_own_envs_folder(tmp_path):
    """A folder called envs in the user's repository is theirs: it trains, and ours still lists."""
    (tmp_path / "envs").mkdir()
    (tmp_path / "envs" / "__init__.py").write_text("")
    (tmp_path / "envs" / "mine.py").write_text(
        textwrap.dedent(
            """
            from tests.probes import ConstantReward


            class Env(ConstantReward):
                pass
            """
        )
    )
    variables = {
        "JAX_COMPILATION_CACHE_DIR": str(jax.config.jax_compilation_cache_dir or tmp_path / "xla"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    done = python(tmp_path, "-c", "import rlax_lab, envs.mine; print(envs.__file__)", **variables)
    assert (done.returncode, done.stderr) == (0, "")
    assert Path(done.stdout.strip()) == tmp_path / "envs" / "__init__.py"

    words = ["train", "ppo", "--env", "envs.mine:Env", *TINY, "--out", "run"]
    done = python(tmp_path, "-m", "rlax_lab", *words, **variables)
    assert (done.returncode, done.stderr) == (0, "")
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["env"] == "envs.mine:Env"
    assert summary["final_return"]["per_seed"] == [1.0, 1.0]

    done = python(tmp_path, "-m", "rlax_lab", "envs", **variables)
    assert (done.returncode, done.stderr) == (0, "")
    header, *rows = done.stdout.splitlines()
    assert header.split() == ["name", "observation", "actions", "time", "limit", "algorithms"]
    assert [row.split()[0] for row in rows] == list(gymnax.registered_envs)
    assert len(rows) == 26
    row = next(row for row in rows if row.startswith("CartPole-v1 "))
    assert row.split() == ["CartPole-v1", "(4,)", "float32", "discrete", "2", "500", "all"]


def test_floats_for_whole_numbers(run):
    """1e3 is a whole number."""
    record = json.loads((run / "config.json").read_text())
    assert record["config"]["total_steps"] == 1000
    assert isinstance(record["config"]["total_steps"], int)


def test_none_and_switches(tmp_path, monkeypatch):
    """`none` switches a field off, and --no- what is on by default."""
    made = []
    monkeypatch.setattr(runs, "run", lambda task, *_: made.append(task.config))
    flags = ["--max-grad-norm", "none", "--no-anneal-learning-rate", "--target-kl", "0.01"]
    assert main([*CARTPOLE, *flags, "--hidden-sizes", "32,16,8", "--num-envs", "1e2"]) == 0
    (config,) = made
    assert config == ppo.Config(
        max_grad_norm=None,
        anneal_learning_rate=False,
        target_kl=0.01,
        hidden_sizes=(32, 16, 8),
        num_envs=100,
    )


def test_default_folder(tmp_path, monkeypatch):
    """Without --out a run gets a folder of its own under runs/, named after what it trains."""
    monkeypatch.chdir(tmp_path)
    made = []
    monkeypatch.setattr(runs, "run", lambda task, settings, folder, resume: made.append(folder))
    assert main(["train", "ppo", "--env", "tests.probes:ConstantReward"]) == 0
    assert made[0].parent == Path("runs")
    assert made[0].name.startswith("ppo_tests.probes.ConstantReward_")


def test_resume_without_repeating_flags(run, tmp_path, capsys):
    """The run's own configuration holds, and the finished run is summarised again."""
    folder = Path(shutil.copytree(run, tmp_path / "run"))
    (folder / "summary.json").unlink()
    assert main([*CARTPOLE, "--out", str(folder), "--resume"]) == 0
    assert capsys.readouterr().out.startswith(f"Resuming ppo on CartPole-v1 in {folder}\n")
    again, before = (json.loads((f / "summary.json").read_text()) for f in (folder, run))
    assert again["config"] == before["config"]
    assert again["final_return"] == before["final_return"]


def test_evaluate(run, capsys):
    """Returns of CartPole for every seed: the same ones each time, others with another --seed."""
    outs = []
    for words in ([], [], ["--seed", "1"]):
        assert main(["evaluate", str(run), "--episodes", "8", *words]) == 0
        outs.append(capsys.readouterr().out)
    assert outs[0] == outs[1] != outs[2]
    title, *seeds, last = outs[0].splitlines()
    assert title == "ppo on CartPole-v1 after 1024 steps per seed, greedy policy"
    returns = []
    for seed, line in enumerate(seeds):
        label, _, numbers = line.partition(": ")
        mean, _, deviation = numbers.partition(" +- ")
        assert label == f"  seed {seed}"
        assert 8 <= float(mean) <= 500
        assert 0 <= float(deviation) <= 250
        returns.append(float(mean))
    assert len(returns) == 2
    assert last.startswith("IQM ")
    iqm = float(last.split()[1].rstrip(","))
    assert min(returns) <= iqm <= max(returns)


def test_plot(run, tmp_path, capsys):
    """A picture where it was asked for, whose path is printed."""
    out = tmp_path / "new" / "x.png"
    assert main(["plot", str(run), "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"{out}\n"
    assert out.read_bytes().startswith(b"\x89PNG\r\n")
