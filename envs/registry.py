"""Environments by name: gymnax's registry, and a user's own as ``module:callable``."""

import contextlib
import difflib
import importlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import gymnax
import jax
import jax.numpy as jnp
from gymnax.environments import spaces
from gymnax.environments.environment import Environment, EnvParams

# Mean return over episodes at which a task counts as solved: the reward_threshold that Gymnasium
# registers. Gymnasium has none for Pendulum-v1; -200 is the field's practice.
REWARD_THRESHOLDS: dict[str, float] = {
    "Acrobot-v1": -100.0,
    "CartPole-v1": 475.0,
    "MountainCar-v0": -110.0,
    "MountainCarContinuous-v0": 90.0,
    "Pendulum-v1": -200.0,
}

# Environments that download data when they are built, which a mere table should not.
_DOWNLOADS: dict[str, dict[str, Any]] = {
    "MNISTBandit-bsuite": {
        "name": "MNISTBandit-bsuite",
        "observation": "(28, 28) float32",
        "actions": "discrete 10",
        "time_limit": 1,
    },
}

# gymnax's base class has these too, but only raises in them.
_ABSTRACT = ("reset_env", "step_env", "action_space", "observation_space")
_INTERFACE = (*_ABSTRACT, "is_truncated", "default_params")


class UnknownEnvironment(ValueError):
    """A name or ``module:callable`` that gives no environment. One sentence says why."""


def names() -> tuple[str, ...]:
    """All registered names. ``gymnax.register`` adds one."""
    return tuple(gymnax.registered_envs)


def make(spec: str) -> tuple[Environment, EnvParams]:
    """Builds an environment.

    Args:
      spec: a registered name, or ``module:callable`` for a class or function that returns an
        environment or a pair of an environment and its parameters. Modules in the current
        directory come first.

    Returns:
      The environment and its parameters, by default its ``default_params``.

    Raises:
      UnknownEnvironment: if `spec` gives no environment.
    """
    if spec in names():
        return _build(spec, lambda: gymnax.make(spec))
    if ":" not in spec:
        raise UnknownEnvironment(
            f"there is no environment '{spec}'{_nearest(spec, names())} (`rlax-lab envs` lists "
            "all, and module:callable gives one of your own)"
        )
    with _current_directory_first():
        return _build(spec, _import(spec))


def describe(name: str) -> dict[str, Any]:
    """A row of a table: ``name``, ``observation``, ``actions`` as short text, ``time_limit``.

    Raises:
      UnknownEnvironment: as `make` does.
    """
    if name in _DOWNLOADS:
        return dict(_DOWNLOADS[name])
    env, params = make(name)
    limit = getattr(params, "max_steps_in_episode", None)
    return {
        "name": name,
        "observation": _observation(env, params),
        "actions": _actions(env.action_space(params)),
        "time_limit": None if limit is None else int(limit),
    }


def threshold(spec: str) -> float | None:
    """The mean return at which the environment counts as solved, where one is agreed upon."""
    return REWARD_THRESHOLDS.get(spec)


def _import(spec: str) -> Callable[[], Any]:
    """The callable that ``module:callable`` names."""
    module_name, _, attribute = spec.partition(":")
    if not module_name or not attribute:
        raise UnknownEnvironment(f"environment '{spec}' is not of the form module:callable")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        # Otherwise the module is there, and what it imports in turn is not.
        if missing and f"{module_name}.".startswith(f"{missing}."):
            parent, _, leaf = missing.rpartition(".")
            where = (
                repr(sys.modules.get(parent)) if parent else "the current directory or installed"
            )
            reason = f"there is no module '{leaf}' in {where}"
        else:
            reason = f"importing '{module_name}' raised {_line(error)}"
        raise UnknownEnvironment(f"environment '{spec}': {reason}") from error
    if not hasattr(module, attribute):
        public = [name for name in vars(module) if not name.startswith("_")]
        raise UnknownEnvironment(
            f"environment '{spec}': there is no '{attribute}' in module '{module_name}'"
            f"{_nearest(attribute, public)}"
        )
    factory = getattr(module, attribute)
    if not callable(factory):
        raise UnknownEnvironment(
            f"environment '{spec}': '{attribute}' cannot be called, it is a value of type "
            f"{type(factory).__name__}"
        )
    return factory


def _build(spec: str, factory: Callable[[], Any]) -> tuple[Environment, EnvParams]:
    """What `factory` returns as an environment and its parameters."""
    try:
        made = factory()
    except Exception as error:
        raise UnknownEnvironment(
            f"environment '{spec}': building it raised {_line(error)}"
        ) from error
    is_pair = isinstance(made, tuple) and len(made) == 2
    env = made[0] if is_pair else made
    lacking = [name for name in _INTERFACE if _lacks(env, name)]
    if lacking:
        raise UnknownEnvironment(
            f"environment '{spec}': what was built, of type {type(env).__name__}, is no "
            f"environment because it lacks {', '.join(lacking)}"
        )
    return env, made[1] if is_pair else env.default_params


def _lacks(env: Any, name: str) -> bool:
    inherited = name in _ABSTRACT and getattr(type(env), name, None) is getattr(Environment, name)
    return inherited or not hasattr(env, name)


@contextlib.contextmanager
def _current_directory_first() -> Iterator[None]:
    here = os.getcwd()
    sys.path.insert(0, here)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(here)


def _nearest(word: str, options: Iterable[str]) -> str:
    """A clause that names the option closest to `word`, or nothing where none is close."""
    folded: dict[str, str] = {}
    for option in options:
        # 'CartPole-v1' is also near to what is near to 'cartpole'.
        folded.setdefault(option.partition("-")[0].casefold(), option)
        folded[option.casefold()] = option
    match = difflib.get_close_matches(word.casefold(), folded, n=1, cutoff=0.5)
    return f", the nearest is '{folded[match[0]]}'" if match else ""


def _line(error: Exception) -> str:
    """An exception on one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def _observation(env: Environment, params: EnvParams) -> str:
    """Shape and dtype of what a reset really gives, leaf by leaf."""
    observation, _ = jax.eval_shape(env.reset_env, jax.random.key(0), params)
    leaves = jax.tree_util.tree_leaves_with_path(observation)
    return ", ".join(
        f"{jax.tree_util.keystr(path, simple=True, separator='.')} {leaf.shape} {leaf.dtype}"
        for path, leaf in leaves
    ).strip()


def _actions(space: Any) -> str:
    """A space of actions in words, where they are of a common kind."""
    if isinstance(space, spaces.Discrete):
        return f"discrete {space.n}"
    if isinstance(space, spaces.Tuple) and all(
        isinstance(s, spaces.Discrete) for s in space.spaces
    ):
        return f"multi-discrete {'x'.join(str(s.n) for s in space.spaces)}"
    if isinstance(space, spaces.Box) and jnp.issubdtype(space.dtype, jnp.floating):
        return f"continuous {tuple(space.shape)}"
    return repr(space)
