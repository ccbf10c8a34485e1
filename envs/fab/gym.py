"""The fab for libraries that speak Gymnasium.

``gymnasium.make("rlax_lab/Fab-v0")`` makes it once this module has been imported, and
``gymnasium.make("envs.fab.gym:rlax_lab/Fab-v0")`` imports it by itself.

One agent dispatches one lot at a time. The simulation runs in JAX; only this adapter touches the
host, so use `env.FabEnv` where speed matters.
"""

from typing import Any

import gymnasium
import jax
import numpy as np
from gymnasium import spaces

from .env import FlatFabEnv


class Fab(gymnasium.Env[np.ndarray, int]):
    """`env.FlatFabEnv` as a Gymnasium environment.

    Args:
      fab, seed, days: as `FlatFabEnv`'s; `seed` picks the fab, `reset` its arrivals and durations.

    Attributes:
      info entries: ``objectives``, ``elapsed``, ``discount`` (see `FabEnv`), ``action_mask``.
    """

    metadata = {"render_modes": []}  # noqa: RUF012  (Gymnasium's own attribute)

    def __init__(self, fab: Any = "seed-10x50", seed: int = 0, days: float = 10.0) -> None:
        self._env = FlatFabEnv(fab, seed, days)
        self._params = self._env.default_params
        box = self._env.observation_space(self._params)
        self.observation_space = spaces.Box(-5.0, 5.0, box.shape, np.float32)
        self.action_space = spaces.Discrete(self._params.instance.slots)
        self._reset = jax.jit(lambda key: self._env.reset_env(key, self._params))
        self._step = jax.jit(self._steps)
        self._mask = jax.jit(lambda state: self._env.options(state, self._params))
        self._state: Any = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        key = jax.random.key(int(self.np_random.integers(2**31)))
        observation, self._state = self._reset(key)
        return np.asarray(observation), {"action_mask": self.action_masks()}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        observation, self._state, reward, terminated, truncated, info = self._step(
            self._state, int(action)
        )
        parts = {name: np.asarray(value) for name, value in info.items()}
        parts["action_mask"] = self.action_masks()
        return np.asarray(observation), float(reward), bool(terminated), bool(truncated), parts

    def action_masks(self) -> np.ndarray:
        """``[N]`` bool: the lots that can be started now (the name that sb3-contrib looks for)."""
        return np.asarray(self._mask(self._state))

    def _steps(self, state: Any, action: jax.Array) -> Any:
        key = jax.random.key(0)  # The fab draws from the key that its reset was given.
        observation, state, reward, terminated, info = self._env.step_env(
            key, state, action, self._params
        )
        truncated = self._env.is_truncated(state, self._params) & ~terminated
        return observation, state, reward, terminated, truncated, info


if "rlax_lab/Fab-v0" not in gymnasium.registry:
    gymnasium.register("rlax_lab/Fab-v0", entry_point=f"{__name__}:Fab")
