"""Multi-agent PPO (Yu et al. 2022) on fabs: one agent per tool group, which adds to a rule."""

from typing import Any

from rlax_lab import fab_policy, ppo
from rlax_lab.config import configuration, setting
from rlax_lab.types import Environment, Learner


@configuration
class Config(fab_policy.Config, ppo.Hyperparameters):
    """Configuration of multi-agent PPO on a fab."""

    critic: str = setting(
        "lots",
        "a value of each lot, one of the whole fab, or one of what each group sees",
        choices=fab_policy.CRITICS,
    )
    total_steps: int = setting(
        1_000_000, "steps per seed, in each of which all groups that can decide do", low=1
    )
    num_envs: int = setting(32, "fabs at once per seed", low=1)
    num_steps: int = setting(128, "steps per fab and update", low=1)
    num_epochs: int = setting(2, "passes over each batch", low=1)
    learning_rate: float = setting(3e-3, "Adam's step size", above=0)
    adam_eps: float = setting(
        1e-8, "Adam's epsilon: with value_coef, the value's gradients are small", above=0
    )
    gamma: float = setting(
        1.0, "discount per step, beside that of the time which it took", low=0, high=1
    )
    value_updates: int = setting(
        20, "updates at the start that train the value alone: a rule beats a guess", low=0
    )
    gae_lambda: float = setting(
        0.995,
        "decay of GAE's trace per step; a short one learns fast, but what values are wrong about, "
        "and with a longer one a decision drowns in what comes after it",
        low=0,
        high=1,
    )
    value_lambda: float | None = setting(
        0.997,
        "decay of the trace of the value's targets; with a short one it is blind to what queues do",
        low=0,
        high=1,
    )
    value_coef: float = setting(
        1e-3,
        "weight of the value loss; with days squared at full weight, clipping by the norm of all "
        "gradients would leave the policy next to none",
        low=0,
    )
    scale_rewards: bool = setting(
        True, "divide rewards by the running deviation of the discounted return"
    )


def make(env: Environment, config: Config | None = None, env_params: Any = None) -> Learner:
    """Multi-agent PPO on a `FabEnv`; see `ppo.make`.

    Raises:
      InputError: on a configuration that cannot work.
    """
    config = config if config is not None else Config()
    env_params = env.default_params if env_params is None else env_params
    return ppo.make(
        env, config, env_params, pi=fab_policy.make(env, env_params, config, config.critic)
    )
