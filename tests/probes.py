"""Environments so small that the right answer is known, each for one thing a learner can get wrong.

The usual ladder of probe environments: a learner that fails on one of them and passes on those
before it has its fault in what that one adds. Every probe has `observations` to ask a learner about
and gives, as a function of the discount gamma, the `true_value` of each one under the best policy;
the probes where the action matters also give the `best_action`. The last few are broken on purpose.
"""

import itertools
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from gymnax.environments import spaces
from gymnax.environments.environment import Environment

Kind = Literal["discrete", "multi_discrete", "continuous"]

NEVER = 2**31 - 1

KINDS: tuple[Kind, ...] = ("discrete", "multi_discrete", "continuous")


@struct.dataclass
class State:
    """`time`: steps since the reset. `signal`: what the observation of this episode shows."""

    time: jax.Array
    signal: Any


@struct.dataclass
class Params:
    max_steps_in_episode: int = 100


@struct.dataclass
class TimeLimitParams(Params):
    max_steps_in_episode: int = 5
    first_reward: float = -1.0


@struct.dataclass
class NaNParams(Params):
    max_steps_in_episode: int = 8
    nan_at: int = 3


class Probe(Environment[State, Any]):
    """Episodes of one step with reward 1 and the observation 0, whatever the action.

    A subclass says what differs: `draw` (the signal of an episode), `show` (the observation of a
    state), `pay` (the reward of an action in a state), `steps` (the length of an episode) and
    `time_discount` (for the time that a step takes).
    """

    steps = 1
    time_discount = 1.0

    def __init__(self, kind: Kind = "discrete"):
        self.kind = kind

    @property
    def default_params(self) -> Any:
        return Params()

    @property
    def observations(self) -> Any:
        """Every observation that differs in what matters, stacked along a first axis [K, ...]."""
        return np.zeros((1, 1), np.float32)

    def true_value(self, gamma: float) -> np.ndarray:
        """The value [K] of each of `observations` under the best policy."""
        raise NotImplementedError

    def draw(self, key: jax.Array) -> Any:
        return jnp.zeros(())

    def show(self, state: State) -> Any:
        return state.signal[None]

    def pay(self, state: State, action: Any, params: Any) -> jax.Array:
        return jnp.ones(())

    def reset_env(self, key: jax.Array, params: Any) -> tuple[Any, State]:
        state = State(time=jnp.zeros((), jnp.int32), signal=self.draw(key))
        return self.show(state), state

    def step_env(
        self, key: jax.Array, state: State, action: Any, params: Any
    ) -> tuple[Any, State, jax.Array, jax.Array, dict[Any, Any]]:
        reward = self.pay(state, action, params)
        state = State(time=state.time + 1, signal=state.signal)
        info = {"time_discount": jnp.float32(self.time_discount)}
        return self.show(state), state, reward, state.time >= self.steps, info

    def action_space(self, params: Any = None) -> spaces.Space:
        if self.kind == "discrete":
            return spaces.Discrete(2)
        if self.kind == "multi_discrete":
            return spaces.Tuple([spaces.Discrete(3), spaces.Discrete(2)])
        return spaces.Box(low=-1.0, high=1.0, shape=(1,))

    def observation_space(self, params: Any = None) -> spaces.Space:
        return spaces.Box(low=-1.0, high=1.0, shape=(1,))


class ConstantReward(Probe):
    """One step, observation 0, reward 1: V(0) = 1 for every gamma.

    Tests that the value is regressed on the returns at all.
    """

    def true_value(self, gamma: float) -> np.ndarray:
        return np.ones(1)


class ObservationReward(Probe):
    """One step, observation s = +-1 with even odds, reward s: V(s) = s for every gamma.

    Tests that the value sees the observation.
    """

    observations = np.array([[-1.0], [1.0]], np.float32)

    def true_value(self, gamma: float) -> np.ndarray:
        return np.array([-1.0, 1.0])

    def draw(self, key: jax.Array) -> jax.Array:
        return jax.random.rademacher(key, (), jnp.float32)

    def pay(self, state: State, action: Any, params: Any) -> jax.Array:
        return state.signal


class TwoStepDiscount(Probe):
    """Two steps, observations 0 then 1, reward 1 for the second: V(0) = gamma, V(1) = 1.

    Tests that values are discounted, once per step, and passed back through time.
    """

    steps = 2
    observations = np.array([[0.0], [1.0]], np.float32)

    def true_value(self, gamma: float) -> np.ndarray:
        return np.array([gamma, 1.0])

    def show(self, state: State) -> jax.Array:
        # The final observation is 1 as well: nothing may be bootstrapped from it.
        return jnp.minimum(state.time, 1).astype(jnp.float32)[None]

    def pay(self, state: State, action: Any, params: Any) -> jax.Array:
        return state.time.astype(jnp.float32)


class StepsTakeTime(TwoStepDiscount):
    """As before, but each step takes time worth a discount of 1/2: V(0) = gamma/2, V(1) = 1.

    Tests that values are discounted for the time that passes.
    """

    time_discount = 0.5

    def true_value(self, gamma: float) -> np.ndarray:
        return np.array([gamma / 2, 1.0])


class ObservationActionReward(Probe):
    """One step, observation s = +-1 with even odds; the best action depends on s and pays 1.

    discrete: action 1 if s = 1 else 0; the other pays -1.
    multi-discrete: (2, 1) if s = 1 else (0, 0); each right component pays 1/2.
    continuous: a = s/2, reward 1 - (a - s/2)^2.

    V(s) = 1 for every gamma under the best policy. Tests that the policy sees the observation, and
    that advantages and actions of a batch stay together.
    """

    observations = np.array([[-1.0], [1.0]], np.float32)

    def true_value(self, gamma: float) -> np.ndarray:
        return np.ones(len(self.observations))

    def best_action(self, observation: Any) -> Any:
        """The action [...] that pays 1 for observations [..., 1]."""
        if self.kind == "continuous":
            return observation / 2
        yes = (observation[..., 0] > 0).astype(jnp.int32)
        return yes if self.kind == "discrete" else (2 * yes, yes)

    def draw(self, key: jax.Array) -> jax.Array:
        return jax.random.rademacher(key, (), jnp.float32)

    def pay(self, state: State, action: Any, params: Any) -> jax.Array:
        best = self.best_action(self.show(state))
        if self.kind == "continuous":
            return 1.0 - jnp.square(action - best)[0]
        if self.kind == "discrete":
            return jnp.where(action == best, 1.0, -1.0)
        return jnp.mean(jnp.stack([a == b for a, b in zip(action, best, strict=True)]))


class ActionReward(ObservationActionReward):
    """One step, observation always 1, the reward depends on the action alone: V(1) = 1.

    The rewards are those of `ObservationActionReward` for s = 1. Tests the policy's gradient.
    """

    observations = np.ones((1, 1), np.float32)

    def draw(self, key: jax.Array) -> jax.Array:
        return jnp.ones(())


class TimeLimit(Probe):
    """Never terminates; truncated after L = `max_steps_in_episode` steps, which is not shown.

    The observation is (1, 1) after the reset and (1, 0) from then on. The first step pays
    b = `first_reward`, every other one 1, so that an episode without an end has

      V(1, 0) = 1/(1 - gamma)        V(1, 1) = b + gamma/(1 - gamma)

    and a learner that bootstraps a truncation from the final observation, (1, 0), finds just that.
    The mistakes give other values v = V(1, 0), V(1, 1) = b + gamma v. One-step bootstrapping
    averages over the m = L - 1 steps taken from (1, 0), of which the last is wrong:

      truncation taken for termination: m v = m + (m - 1) gamma v, hence
        v = m / (m - (m - 1) gamma)
      bootstrapped from the next episode's reset observation, (1, 1):
        m v = m + (m - 1) gamma v + gamma (b + gamma v), hence
        v = (m + b gamma) / (m - (m - 1) gamma - gamma^2)

    At gamma = 0.9 and the default L and b these are 10 (right), 3.08 and 6.33. Longer traces move
    the wrong values (to the mean of (1 - gamma^k)/(1 - gamma) over k = 1..m for a termination and
    Monte Carlo returns), and never the right one.
    """

    steps = NEVER
    observations = np.array([[1.0, 1.0], [1.0, 0.0]], np.float32)

    @property
    def default_params(self) -> TimeLimitParams:
        return TimeLimitParams()

    def true_value(self, gamma: float) -> np.ndarray:
        return self._values(gamma, 1 / (1 - gamma))

    def value_if_terminated(self, gamma: float) -> np.ndarray:
        """What one-step bootstrapping finds when a truncation is taken for a termination."""
        m = self.default_params.max_steps_in_episode - 1
        return self._values(gamma, m / (m - (m - 1) * gamma))

    def value_if_reset(self, gamma: float) -> np.ndarray:
        """What one-step bootstrapping finds when a truncation bootstraps from the next reset."""
        m, b = self.default_params.max_steps_in_episode - 1, self.default_params.first_reward
        return self._values(gamma, (m + b * gamma) / (m - (m - 1) * gamma - gamma**2))

    def _values(self, gamma: float, later: float) -> np.ndarray:
        return np.array([self.default_params.first_reward + gamma * later, later])

    def show(self, state: State) -> jax.Array:
        return jnp.stack([jnp.ones(()), (state.time == 0).astype(jnp.float32)])

    def pay(self, state: State, action: Any, params: Any) -> jax.Array:
        return jnp.where(state.time == 0, params.first_reward, 1.0)

    def observation_space(self, params: Any = None) -> spaces.Space:
        return spaces.Box(low=0.0, high=1.0, shape=(2,))


class Masked(Probe):
    """One step of four discrete actions, of which each episode allows some (15 masks, even odds).

    The observation is ``{"observation": f32[1], "action_mask": bool[4]}``. The last allowed action
    pays 1, the others that are allowed 0, a masked one -100: V = 1 for every mask and gamma. A
    policy that respects the mask never sees -100, not even at random.
    """

    observations = {  # noqa: RUF012
        "observation": np.ones((15, 1), np.float32),
        "action_mask": np.array(list(itertools.product([False, True], repeat=4))[1:]),
    }

    def __init__(self) -> None:
        super().__init__("discrete")

    def true_value(self, gamma: float) -> np.ndarray:
        return np.ones(15)

    def best_action(self, observation: Any) -> jax.Array:
        """The last allowed action [...] of a mask [..., 4]."""
        return 3 - jnp.argmax(observation["action_mask"][..., ::-1], axis=-1)

    def draw(self, key: jax.Array) -> jax.Array:
        return jax.random.choice(key, self.observations["action_mask"])

    def show(self, state: State) -> dict[str, jax.Array]:
        return {"observation": jnp.ones((1,)), "action_mask": state.signal}

    def pay(self, state: State, action: Any, params: Any) -> jax.Array:
        best = self.best_action(self.show(state))
        return jnp.where(state.signal[action], jnp.where(action == best, 1.0, 0.0), -100.0)

    def action_space(self, params: Any = None) -> spaces.Discrete:
        return spaces.Discrete(4)

    def observation_space(self, params: Any = None) -> spaces.Dict:
        return spaces.Dict(
            {
                "observation": spaces.Box(low=0.0, high=1.0, shape=(1,)),
                "action_mask": spaces.Box(low=0, high=1, shape=(4,), dtype=jnp.bool_),
            }
        )


class PytreeObservation(Probe):
    """One step, three discrete actions, a nested observation of which one leaf matters.

    The observation is ``{"image": f32[3, 2], "inner": {"count": i32[], "flags": bool[2]}}``, drawn
    at the reset. The action that equals `count` (0, 1 or 2) pays 1 and the others 0: V = 1 for
    every gamma.
    """

    observations = {  # noqa: RUF012
        "image": np.zeros((3, 3, 2), np.float32),
        "inner": {"count": np.arange(3, dtype=np.int32), "flags": np.zeros((3, 2), bool)},
    }

    def __init__(self) -> None:
        super().__init__("discrete")

    def true_value(self, gamma: float) -> np.ndarray:
        return np.ones(3)

    def best_action(self, observation: Any) -> jax.Array:
        """The action [...] that pays 1."""
        return jnp.asarray(observation["inner"]["count"])

    def draw(self, key: jax.Array) -> dict[str, Any]:
        image, count, flags = jax.random.split(key, 3)
        return {
            "image": jax.random.uniform(image, (3, 2)),
            "inner": {
                "count": jax.random.randint(count, (), 0, 3),
                "flags": jax.random.bernoulli(flags, shape=(2,)),
            },
        }

    def show(self, state: State) -> dict[str, Any]:
        return state.signal

    def pay(self, state: State, action: Any, params: Any) -> jax.Array:
        return jnp.where(action == self.best_action(state.signal), 1.0, 0.0)

    def action_space(self, params: Any = None) -> spaces.Discrete:
        return spaces.Discrete(3)

    def observation_space(self, params: Any = None) -> spaces.Dict:
        inner = {
            "count": spaces.Discrete(3),
            "flags": spaces.Box(low=0, high=1, shape=(2,), dtype=jnp.bool_),
        }
        return spaces.Dict(
            {
                "image": spaces.Box(low=0.0, high=1.0, shape=(3, 2)),
                "inner": spaces.Dict(inner),
            }
        )


class NaNReward(Probe):
    """Reward 1, but NaN for the step taken `nan_at` (3) steps after the reset.

    Truncated after eight steps and never terminated; the observation is the number of steps since
    the reset, in eighths. V = 1/(1 - gamma) if `nan_at` is past the end, and none otherwise.
    """

    steps = NEVER
    observations = np.arange(8, dtype=np.float32)[:, None] / 8

    def true_value(self, gamma: float) -> np.ndarray:
        return np.full(8, 1 / (1 - gamma))

    @property
    def default_params(self) -> NaNParams:
        return NaNParams()

    def show(self, state: State) -> jax.Array:
        return state.time.astype(jnp.float32)[None] / 8

    def pay(self, state: State, action: Any, params: Any) -> jax.Array:
        return jnp.where(state.time == params.nan_at, jnp.nan, 1.0)


class DriftingDtype(ConstantReward):
    """Broken: the observation is float32 after a reset and int32 after a step."""

    def step_env(self, *args: Any) -> tuple[Any, ...]:
        observation, *rest = super().step_env(*args)
        return observation.astype(jnp.int32), *rest


class WrongShape(ConstantReward):
    """Broken: the observation is [1] after a reset and [2] after a step."""

    def step_env(self, *args: Any) -> tuple[Any, ...]:
        observation, *rest = super().step_env(*args)
        return jnp.tile(observation, 2), *rest


class VectorReward(ConstantReward):
    """Broken: the reward is [1] instead of a scalar."""

    def step_env(self, *args: Any) -> tuple[Any, ...]:
        observation, state, reward, terminated, info = super().step_env(*args)
        return observation, state, reward[None], terminated, info


class FloatFlag(ConstantReward):
    """Broken: `terminated` is a float32 instead of a bool."""

    def step_env(self, *args: Any) -> tuple[Any, ...]:
        observation, state, reward, terminated, info = super().step_env(*args)
        return observation, state, reward, terminated.astype(jnp.float32), info


class NoFlags(ConstantReward):
    """Broken: `step_env` has no flag to return, and there is no `is_truncated`."""

    @property
    def is_truncated(self) -> Any:
        raise AttributeError("no such flag")

    def step_env(self, *args: Any) -> tuple[Any, ...]:
        observation, state, reward, _, info = super().step_env(*args)
        return observation, state, reward, info
