"""Domain randomisation (Tobin et al. 2017): environments whose parameters differ."""

from typing import Any, NamedTuple

import jax

from rlax_lab.types import Environment, PyTree


class State(NamedTuple):
    """Attributes: the parameters that hold for this episode; the environment's own state."""

    params: PyTree
    inner: PyTree


class Randomized:
    """An environment in gymnax's interface that draws its parameters at every reset.

    An episode carries its own along, so that a step of many environments gathers nothing.

    Args:
      env: any environment in gymnax's interface.
      params: of its parameters K, with a leading axis ``[K]``; all are as likely.
    """

    def __init__(self, env: Environment, params: PyTree) -> None:
        self.env, self.default_params = env, params

    @property
    def name(self) -> str:
        return str(getattr(self.env, "name", type(self.env).__name__))

    def reset_env(self, key: jax.Array, params: PyTree) -> tuple[PyTree, State]:
        which, key = jax.random.split(key)
        number = jax.random.randint(which, (), 0, len(jax.tree.leaves(params)[0]))
        own = jax.tree.map(lambda x: x[number], params)
        observation, inner = self.env.reset_env(key, own)
        return observation, State(own, inner)

    def step_env(self, key: jax.Array, state: State, action: PyTree, params: PyTree) -> Any:
        del params
        observation, inner, *rest = self.env.step_env(key, state.inner, action, state.params)
        return observation, State(state.params, inner), *rest

    def is_truncated(self, state: State, params: PyTree) -> jax.Array:
        del params
        return self.env.is_truncated(state.inner, state.params)

    def action_space(self, params: PyTree) -> Any:
        return self.env.action_space(_first(params))

    def observation_space(self, params: PyTree) -> Any:
        return self.env.observation_space(_first(params))


def _first(params: PyTree) -> PyTree:
    return jax.tree.map(lambda x: x[0], params)
