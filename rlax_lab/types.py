"""Names shared by every module."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

PyTree = Any


class Environment(Protocol):
    """The part of gymnax's interface that the learners use."""

    @property
    def default_params(self) -> Any: ...
    def reset_env(self, key: jax.Array, params: Any) -> tuple[PyTree, Any]: ...
    def step_env(
        self, key: jax.Array, state: Any, action: Any, params: Any
    ) -> tuple[PyTree, Any, jax.Array, jax.Array, dict[Any, Any]]: ...
    def is_truncated(self, state: Any, params: Any) -> jax.Array: ...
    def action_space(self, params: Any) -> Any: ...
    def observation_space(self, params: Any) -> Any: ...


class Learner(NamedTuple):
    """An algorithm on an environment: pure functions, as an optax transformation is.

    Attributes:
      init: ``init(key) -> state``.
      update: ``update(state) -> (state, metrics)``; metrics are sums and counts, so that those of
        several updates add up (`rlax_lab.metrics`).
      act: ``act(params, observation, key=None) -> action`` for observations with any leading
        axes; without a key the most likely action. `params` is ``state.params``.
      value: ``value(params, observation) -> [...]``, the discounted reward that the learner
        expects from there on.
      steps_per_update: environment steps that one update takes.
      total_steps: the environment steps of a whole run.
      initial_steps: how many of them `init` takes, to fill a replay buffer.
      axes: where the algorithm can run in parts (`rlax_lab.shards`), which leaves of the state
        every part has its own of: 0, or None for those that are common; a prefix of the state.
      parts: in how many this one runs.
      members: of many runs in one (`rlax_lab.population`), how many; its params and metrics have a
        leading axis of them, `act` and `value` take the params of one, and one that diverges does
        not stop the others.
    """

    init: Callable[[jax.Array], Any]
    update: Callable[[Any], tuple[Any, dict[str, jax.Array]]]
    act: Callable[..., PyTree]
    value: Callable[[Any, PyTree], jax.Array]
    steps_per_update: int
    total_steps: int
    initial_steps: int = 0
    axes: PyTree = None
    parts: int = 1
    members: int | None = None

    @property
    def num_updates(self) -> int:
        """The updates of a whole run."""
        return (self.total_steps - self.initial_steps) // self.steps_per_update

    def steps_after(self, updates: int) -> int:
        """The environment steps taken when `updates` updates are done."""
        return self.initial_steps + updates * self.steps_per_update


class Counter(NamedTuple):
    """A count up to 2^64 in two 32-bit words: JAX has no 64-bit integers by default."""

    high: jax.Array
    low: jax.Array

    @classmethod
    def zero(cls) -> "Counter":
        return cls(jnp.zeros((), jnp.uint32), jnp.zeros((), jnp.uint32))

    def add(self, n: int) -> "Counter":
        """The count plus `n`, 0 <= n < 2^32."""
        low = self.low + jnp.uint32(n)
        return Counter(self.high + (low < self.low).astype(jnp.uint32), low)

    def as_float(self) -> jax.Array:
        """The count rounded to float32."""
        return self.high.astype(jnp.float32) * 2.0**32 + self.low.astype(jnp.float32)

    def __int__(self) -> int:
        return (int(self.high) << 32) | int(self.low)
