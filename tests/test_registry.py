"""Environments by name, the sentences for those that are none, and what importing them costs."""

import importlib
import os
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import gymnax
import jax
import jax.numpy as jnp
import pytest
from gymnax.environments import spaces
from gymnax.environments.classic_control.cartpole import CartPole

from envs import registry
from envs._lazy import deferred

ROOT = Path(__file__).parents[1]
MNIST = Path("/tmp/mnist/train-images-idx3-ubyte.gz")  # where gymnax downloads it to
NAMES = [
    pytest.param(name, marks=pytest.mark.skipif(not MNIST.exists(), reason="downloads MNIST"))
    if name.startswith("MNIST")
    else name
    for name in registry.names()
]


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    """A function that writes a module of the user's into what is then the current directory."""
    monkeypatch.chdir(tmp_path)
    known = set(sys.modules)

    def write(name, source):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(textwrap.dedent(source))
        importlib.invalidate_caches()

    yield write
    for name in set(sys.modules) - known:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", None)):
            del sys.modules[name]


def error(spec):
    with pytest.raises(registry.UnknownEnvironment) as caught:
        registry.make(spec)
    return str(caught.value)


def python(code, **kwargs):
    """Runs `code` in a fresh interpreter, and returns what it prints."""
    environ = {**os.environ, "MPLBACKEND": "Agg"}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        env=environ,
        **{"cwd": ROOT, **kwargs},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


# Registered names


def test_names_are_those_of_gymnax():
    assert registry.names() == tuple(gymnax.registered_envs)
    assert len(set(registry.names())) == len(registry.names()) >= 26


@pytest.mark.parametrize("name", NAMES)
def test_every_name_gives_an_environment(name):
    key = jax.random.key(0)
    env, params = registry.make(name)
    observation, state = jax.eval_shape(env.reset, key, params)
    action = jax.eval_shape(env.action_space(params).sample, key)
    with jax.numpy_rank_promotion("allow"):  # gymnax relies on it here and there
        *_, terminated, truncated, _ = jax.eval_shape(env.step, key, state, action, params)
    assert terminated.shape == truncated.shape == ()
    row = registry.describe(name)
    assert row["name"] == name
    assert str(observation.shape) in row["observation"]
    assert row["time_limit"] == params.max_steps_in_episode


def test_what_gymnax_registers_is_known(monkeypatch):
    monkeypatch.setattr(gymnax.registration, "_registry", dict(gymnax.registration._registry))
    monkeypatch.setattr(gymnax, "registered_envs", names := list(gymnax.registered_envs))
    monkeypatch.setattr(gymnax.registration, "registered_envs", names)
    gymnax.register("Mine-v0", CartPole)
    assert "Mine-v0" in registry.names()
    assert isinstance(registry.make("Mine-v0")[0], CartPole)


@pytest.mark.parametrize(
    ("name", "observation", "actions", "time_limit"),
    [
        ("CartPole-v1", "(4,) float32", "discrete 2", 500),
        ("Pendulum-v1", "(3,) float32", "continuous (1,)", 200),
        ("Breakout-MinAtar", "(10, 10, 4) float32", "discrete 3", 1000),
        ("FrozenLake-misc", "() int32", "discrete 4", 100),
        ("BernoulliBandit-misc", "(4,) float32", "discrete 2", 100),
        ("MNISTBandit-bsuite", "(28, 28) float32", "discrete 10", 1),
        (
            "tests.probes:Masked",
            "action_mask (4,) bool, observation (1,) float32",
            "discrete 4",
            100,
        ),
    ],
)
def test_description(name, observation, actions, time_limit):
    assert registry.describe(name) == {
        "name": name,
        "observation": observation,
        "actions": actions,
        "time_limit": time_limit,
    }


def test_description_of_actions():
    tuple_ = spaces.Tuple([spaces.Discrete(3), spaces.Discrete(2)])
    assert registry._actions(tuple_) == "multi-discrete 3x2"
    steps = spaces.Box(low=0, high=5, shape=(2,), dtype=jnp.int32)
    assert registry._actions(steps) == "Box(low=0, high=5, shape=(2,), dtype=int32)"


def test_a_description_may_lack_a_time_limit(workspace):
    workspace(
        "limitless.py",
        """
        from gymnax.environments.classic_control.cartpole import CartPole
        def make():
            return CartPole(), ()
        """,
    )
    assert registry.describe("limitless:make")["time_limit"] is None


def test_thresholds():
    assert set(registry.REWARD_THRESHOLDS) <= set(registry.names())
    assert registry.threshold("CartPole-v1") == 475.0
    assert registry.threshold("Acrobot-v1") == -100.0
    assert registry.threshold("Catch-bsuite") is None
    assert registry.threshold("mine:Env") is None


@pytest.mark.parametrize("name", ["CartPole-v1", "Acrobot-v1", "MountainCar-v0"])
def test_thresholds_are_those_of_gymnasium(name):
    gymnasium = pytest.importorskip("gymnasium")
    assert registry.threshold(name) == gymnasium.spec(name).reward_threshold


# A user's own


def test_a_class_or_a_factory_in_the_current_directory(workspace):
    workspace(
        "own_envs.py",
        """
        from gymnax.environments.classic_control.cartpole import CartPole as Own
        def alone():
            return Own()
        def pair():
            import own_envs_helper
            return Own(), Own().default_params.replace(max_steps_in_episode=7)
        """,
    )
    workspace("own_envs_helper.py", "")
    path = list(sys.path)
    for attribute in ("Own", "alone"):
        env, params = registry.make(f"own_envs:{attribute}")
        assert isinstance(env, CartPole)
        assert params == env.default_params
    env, params = registry.make("own_envs:pair")
    assert params.max_steps_in_episode == 7
    assert registry.describe("own_envs:pair")["time_limit"] == 7
    assert sys.path == path


def test_the_path_is_restored_after_an_error(workspace):
    path = list(sys.path)
    error("no_such_module:Env")
    assert sys.path == path


def test_own_modules_come_first(workspace):
    """Before those installed, and before ours when it goes by another name."""
    for name in ("seaborn", "envs"):
        workspace(f"{name}/__init__.py", "")
        workspace(
            f"{name}/mine.py",
            "from gymnax.environments.classic_control.cartpole import CartPole as Env",
        )
    code = f"""
        import importlib.util, sys
        sys.path.remove("")
        spec = importlib.util.spec_from_file_location("_ours", {str(ROOT / "envs/__init__.py")!r})
        sys.modules["_ours"] = ours = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(ours)
        from _ours import registry
        for name in ("seaborn", "envs"):
            env, params = registry.make(name + ".mine:Env")
            print(env.name, sys.modules[name].__file__)
    """
    here = Path.cwd()
    assert python(code, cwd=here).splitlines() == [
        f"CartPole-v1 {here / name / '__init__.py'}" for name in ("seaborn", "envs")
    ]


def test_there_is_one_package_whoever_imports_it_first():
    """And a command leaves its name to whom it may belong."""
    code = """
        import sys
        from rlax_lab.packages import ours{0}
        assert "gymnax" not in sys.modules
        names = ours("registry").names()
        print("envs" in sys.modules)
        import envs.registry
        print(envs.registry is ours("registry"))
    """
    assert python(code.format("")).split() == ["True", "True"]
    apart = ", set_apart\n        set_apart()"
    assert python(code.format(apart)).split() == ["False", "False"]


# What goes wrong, in one sentence


@pytest.mark.parametrize(
    ("word", "nearest"),
    [
        ("cartpole", "CartPole-v1"),
        ("CartPole", "CartPole-v1"),
        ("CartPole-v0", "CartPole-v1"),
        ("catch", "Catch-bsuite"),
        ("Brakeout", "Breakout-MinAtar"),
        ("mountaincar", "MountainCar-v0"),
        ("MOUNTAINCARCONTINUOUS-V0", "MountainCarContinuous-v0"),
    ],
)
def test_an_unknown_name_is_told_the_nearest(word, nearest):
    assert error(word) == (
        f"there is no environment '{word}', the nearest is '{nearest}' (`rlax-lab envs` lists all, "
        "and module:callable gives one of your own)"
    )


def test_a_name_like_no_other():
    for word in ("xyzzy", ""):
        assert error(word) == (
            f"there is no environment '{word}' (`rlax-lab envs` lists all, and module:callable "
            "gives one of your own)"
        )


BROKEN = """
    from gymnax.environments.classic_control.cartpole import CartPole as Fine
    from gymnax.environments.environment import Environment
    number = 3
    def raises():
        raise RuntimeError("two\\nlines")
    def nothing():
        return None
    class NeedsMore:
        def __init__(self, size): ...
    class Half(Environment):
        def reset_env(self, key, params): ...
        def step_env(self, key, state, action, params): ...
    class OldStyle(Fine):
        @property
        def is_truncated(self):
            raise AttributeError
"""


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ("broken_envs:Fin", "there is no 'Fin' in module 'broken_envs', the nearest is 'Fine'"),
        ("broken_envs:xyzzy", "there is no 'xyzzy' in module 'broken_envs'"),
        ("broken_envs:number", "'number' cannot be called, it is a value of type int"),
        ("broken_envs:raises", "building it raised RuntimeError: two lines"),
        (
            "broken_envs:NeedsMore",
            "building it raised TypeError: NeedsMore.__init__() missing 1 required positional "
            "argument: 'size'",
        ),
        (
            "broken_envs:nothing",
            "what was built, of type NoneType, is no environment because it lacks reset_env, "
            "step_env, action_space, observation_space, is_truncated, default_params",
        ),
        (
            "broken_envs:Half",
            "what was built, of type Half, is no environment because it lacks action_space, "
            "observation_space",
        ),
        (
            "broken_envs:OldStyle",
            "what was built, of type OldStyle, is no environment because it lacks is_truncated",
        ),
        (
            "no_such_module:Env",
            "there is no module 'no_such_module' in the current directory or installed",
        ),
        (
            "needs_other:Env",
            "importing 'needs_other' raised ModuleNotFoundError: No module named 'not_installed'",
        ),
    ],
)
def test_what_is_wrong_with_a_users_own(workspace, spec, reason):
    workspace("broken_envs.py", BROKEN)
    workspace("needs_other.py", "import not_installed")
    assert error(spec) == f"environment '{spec}': {reason}"


def test_no_such_submodule(workspace):
    """The sentence tells which package was searched, in case that is not the user's."""
    workspace("broken_envs.py", BROKEN)
    assert error("broken_envs.sub:Env") == (
        "environment 'broken_envs.sub:Env': there is no module 'sub' in <module 'broken_envs' from "
        f"'{Path.cwd() / 'broken_envs.py'}'>"
    )


@pytest.mark.parametrize("spec", ["broken_envs:", ":Env", ":"])
def test_half_a_spec(spec):
    assert error(spec) == f"environment '{spec}' is not of the form module:callable"


def test_a_module_that_raises(workspace):
    workspace("syntax_error_envs.py", "def")
    assert error("syntax_error_envs:Env") == (
        "environment 'syntax_error_envs:Env': importing 'syntax_error_envs' raised SyntaxError: "
        "invalid syntax (syntax_error_envs.py, line 1)"
    )


def test_the_cause_is_kept(workspace):
    workspace("broken_envs.py", BROKEN)
    with pytest.raises(registry.UnknownEnvironment) as caught:
        registry.make("broken_envs:raises")
    assert isinstance(caught.value.__cause__, RuntimeError)


# What an import costs


def test_libraries_for_pictures_wait_until_one_is_drawn():
    python("""
        import sys
        import rlax_lab
        assert not {"gymnax", "gymnasium", "orbax", "tensorboardX"} & set(sys.modules)
        from envs import registry
        env, params = registry.make("CartPole-v1")
        drawing = {"matplotlib.pyplot", "seaborn", "pandas", "scipy.stats"}
        assert not drawing & set(sys.modules), drawing & set(sys.modules)

        import jax
        for name in ("Catch-bsuite", "Pong-misc", "FourRooms-misc"):
            env, params = registry.make(name)
            assert not drawing & set(sys.modules)
        env, params = registry.make("Pong-misc")
        env.render(env.reset(jax.random.key(0), params)[1], params)
        assert drawing <= set(sys.modules)
        env, params = registry.make("Catch-bsuite")
        env.render(env.reset(jax.random.key(0), params)[1], params)

        import matplotlib.pyplot as plt
        import seaborn, seaborn.palettes
        from matplotlib import colors
        from gymnax.environments.bsuite import catch
        from gymnax.environments.misc import pong
        assert len(plt.get_fignums()) == 2
        assert catch.plt.figure is plt.figure
        assert pong.sns.color_palette is seaborn.palettes.color_palette
        assert pong.colors is colors
    """)


def test_later_imports_get_the_modules_themselves():
    python("""
        import sys
        from envs import registry
        assert not [m for m in sys.modules.values() if type(m).__name__ == "_StandIn"]
        import matplotlib
        assert not hasattr(matplotlib, "pyplot")
        import matplotlib.pyplot as plt
        from seaborn import palettes, heatmap
        import seaborn
        for module, file in ((plt, "pyplot.py"), (seaborn, "__init__.py")):
            assert module.__spec__.origin == module.__file__
            assert module.__file__.endswith(file)
            assert sys.modules[module.__name__] is module
        assert matplotlib.pyplot is plt
        plt.plot([1, 2])
        seaborn.heatmap([[1, 2]])
    """)


@pytest.fixture
def package(workspace, monkeypatch):
    """The name of a package that can be imported and counts how often it is executed."""
    monkeypatch.syspath_prepend(Path.cwd())
    workspace(
        "slow_package/__init__.py", "import os; os.environ['RUNS'] += 'x'; from .sub import value"
    )
    workspace("slow_package/sub.py", "value = object()")
    monkeypatch.setenv("RUNS", "")
    return "slow_package"


def runs():
    return len(os.environ["RUNS"])


def test_deferred_until_used(package):
    with deferred(package):
        import slow_package as first
        import slow_package as second
    assert first is second
    assert package not in sys.modules
    assert runs() == 0
    value = first.value
    assert runs() == 1
    import slow_package

    assert slow_package.value is value
    assert type(slow_package) is type(sys)
    assert first.sub is slow_package.sub
    assert not hasattr(first, "absent")
    assert runs() == 1


def test_a_later_import_does_not_disturb_the_stand_in(package):
    with deferred(package):
        import slow_package as stand_in
    import slow_package

    assert stand_in.value is slow_package.value
    assert runs() == 1


def test_deferred_but_used_inside(package):
    with deferred(package):
        import slow_package as stand_in

        value = stand_in.value
        from slow_package import sub

        assert sub.value is value
    import slow_package

    assert slow_package.value is value
    assert runs() == 1


def test_a_submodule_can_be_imported_inside(package):
    with deferred(package):
        import slow_package.sub as sub
    import slow_package

    assert slow_package.sub is sub
    assert runs() == 1


def test_deferred_leaves_alone_what_is_imported(package):
    import slow_package

    with deferred(package):
        assert sys.modules[package] is slow_package
    assert sys.modules[package] is slow_package


def test_deferred_restores_after_an_error(package):
    with pytest.raises(KeyError), deferred(package):
        raise KeyError
    assert package not in sys.modules


def test_deferred_module_that_is_not_there():
    with deferred("not_installed"):
        import not_installed
    with pytest.raises(ModuleNotFoundError, match="not_installed"):
        not_installed.value  # noqa: B018


def test_deferred_used_by_many_threads(package):
    with deferred(package):
        import slow_package as stand_in
    barrier, values = threading.Barrier(8), []

    def use():
        barrier.wait()
        values.append(stand_in.value)

    threads = [threading.Thread(target=use) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(values) == 8
    assert len(set(values)) == runs() == 1
