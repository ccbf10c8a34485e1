"""Dispatching by many agents, one per tool group, for `envs.fab.env.FabEnv` and `ppo.make`.

Actors score the lots that wait at their groups, however many there are. What they add to is the
choice of a dispatching rule, so an untrained policy dispatches as the rule does and learning starts
from there. The critic sees the whole fab, which only training needs.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from rlax_lab import networks
from rlax_lab.config import check, configuration, setting
from rlax_lab.distributions import Choices
from rlax_lab.model import Params
from rlax_lab.policy import Policy
from rlax_lab.types import Environment, PyTree


@configuration
class Config:
    """Configuration of the policy's network."""

    hidden: int = setting(32, "units of each of two hidden layers", low=1)
    prior: float = setting(
        3.0, "log-odds that an untrained policy gives the rule's lot over any other", low=0
    )
    actors: str = setting(
        "shared", "one set of weights for all groups, or one each", choices=("shared", "separate")
    )
    critic: str = setting(
        "central",
        "one value of the whole fab, or one of what each group sees",
        choices=("central", "independent"),
    )


def make(env: Environment, env_params: Any, config: Config | None = None) -> Policy:
    """The policy of the groups of a fab: an agent each.

    Args:
      env, env_params: a `FabEnv` and its parameters; with shared actors, and a critic of either
        kind, the weights also fit other fabs.
      config: of the network.

    Raises:
      InputError: on a configuration that cannot work.
    """
    config = config if config is not None else Config()
    check(config)
    groups = len(jax.tree.leaves(env.action_space(env_params).spaces))
    lots = int(env.observation_space(env_params).spaces["group"].shape[0])
    fields = [field.name for field in dataclasses.fields(Config)]
    network = Network(**{name: getattr(config, name) for name in fields}, groups=groups)

    def init(key: jax.Array) -> Params:
        shapes = jax.eval_shape(env.reset_env, key, env_params)[0]
        zeros = jax.tree.map(lambda x: jnp.zeros((1, *x.shape), x.dtype), shapes)
        return Params(network.init(key, zeros), None)

    def outputs(params: Params, observation: PyTree) -> tuple[Choices, jax.Array]:
        lead = observation.active.shape[:-1]
        rows = jax.tree.map(lambda x: x.reshape(-1, *x.shape[len(lead) :]), observation)
        applied: Any = network.apply(params.network, rows)
        scores, value = applied
        scores = scores.reshape(*lead, -1)
        found = Choices(scores, observation.group, observation.options, observation.active)
        return found, value.reshape(*lead, -1)

    def act(params: Params, observation: PyTree, key: jax.Array | None = None) -> PyTree:
        pi = outputs(params, observation)[0]
        return to_action(pi.mode() if key is None else pi.sample(key))

    def to_action(raw: jax.Array) -> jax.Array:
        # A group without a lot to choose does not wait: it is not asked.
        return jnp.where(raw < lots, raw, -1)

    def value(params: Params, observation: PyTree) -> jax.Array:
        return outputs(params, observation)[1]

    def acts(observation: PyTree) -> jax.Array:
        """Groups with at least two lots to choose from."""
        options = observation.options
        return Choices(options, observation.group, options, observation.active).decides

    return Policy(
        init, outputs, lambda pi: pi, to_action, act, value, lambda params, _: params, acts
    )


class Network(nn.Module):
    """Scores of lots ``[B, N]`` and values of groups ``[B, G]`` from a batch of observations."""

    hidden: int
    prior: float
    actors: str
    critic: str
    groups: int

    @nn.compact
    def __call__(self, seen: Any) -> tuple[jax.Array, jax.Array]:
        batch = seen.group.shape[0]
        waiting = _mean_by_group(seen.lots, seen.group, seen.options, self.groups)
        fab = jnp.broadcast_to(seen.fab[:, None], (batch, self.groups, seen.fab.shape[-1]))
        # What an agent sees: its group, the lots there on average, and the fab.
        own = jnp.concatenate([seen.groups, waiting, fab], axis=-1)
        beside = _of_group(own, seen.group)
        relative = seen.lots - _of_group(waiting, seen.group)
        lots = jnp.concatenate([seen.lots, relative, beside], axis=-1)
        scores = self._perceptron("actor", 1, 0.01, lots, seen.group)[..., 0]
        scores = scores + self.prior * seen.preferred
        over = seen.over[:, None]
        if self.critic == "independent":
            over = jnp.broadcast_to(over[:, None], (batch, self.groups, 1))
            own = jnp.concatenate([own, over], axis=-1)
            value = self._perceptron("critic", 1, 1.0, own)[..., 0]
        else:
            # Sums over lots and groups stand for all that is in the fab.
            here = (seen.group < self.groups).astype(jnp.float32)[..., None]
            each = self._perceptron("lots", self.hidden, 1.0, seen.lots) * here
            everyone = self._perceptron("groups", self.hidden, 1.0, own)
            pooled = [each.mean(1), everyone.mean(1), everyone.max(1), seen.fab, over]
            value = self._perceptron("critic", 1, 1.0, jnp.concatenate(pooled, axis=-1))
            value = jnp.broadcast_to(value, (batch, self.groups))
        return scores, value

    def _perceptron(
        self, name: str, size: int, gain: float, x: jax.Array, group: jax.Array | None = None
    ) -> jax.Array:
        """Two hidden layers; for lots of a `group` that group's own, where actors are separate."""
        sizes = (self.hidden, self.hidden, size)
        separate = group is not None and self.actors == "separate"
        for layer, width in enumerate(sizes):
            scale = gain if layer == 2 else 2**0.5
            init = networks.orthogonal(scale)
            shape = (x.shape[-1], width)
            if separate:
                assert group is not None
                sets = self.param(
                    f"{name}_{layer}",
                    lambda key, shape=shape, init=init: jax.vmap(lambda k: init(k, shape))(
                        jax.random.split(key, self.groups)
                    ),
                )
                x = _by_its_group(x, group, sets)
            else:
                x = x @ self.param(f"{name}_{layer}", init, shape)
            bias = self.param(f"{name}_bias_{layer}", nn.initializers.zeros_init(), (width,))
            x = x + jnp.broadcast_to(bias, x.shape)
            if layer < 2:
                x = jnp.tanh(x)
        return x


def _mean_by_group(x: jax.Array, group: jax.Array, where: jax.Array, groups: int) -> jax.Array:
    """``[B, G, F]``: of `x` ``[B, N, F]`` the means over each group's lots `where` it is true."""

    def one(x: jax.Array, group: jax.Array, where: jax.Array) -> jax.Array:
        weight = where.astype(jnp.float32)[:, None]
        total = jnp.zeros((groups, x.shape[1])).at[group].add(x * weight, mode="drop")
        count = jnp.zeros((groups, 1)).at[group].add(weight, mode="drop")
        return total / jnp.maximum(count, 1.0)

    return jax.vmap(one)(x, group, where)


def _of_group(x: jax.Array, group: jax.Array) -> jax.Array:
    """``[B, N, F]``: of `x` ``[B, G, F]`` that of each lot's group; 0 where it has none."""
    padded = jnp.concatenate([x, jnp.zeros_like(x[:, :1])], axis=1)
    return jax.vmap(lambda x, g: x[g])(padded, group)


def _by_its_group(x: jax.Array, group: jax.Array, weights: jax.Array) -> jax.Array:
    """``[B, N, K]``: each lot ``[B, N, F]`` times its group's weights ``[G, F, K]``."""
    total = jnp.zeros((*x.shape[:-1], weights.shape[-1]))
    for g in range(weights.shape[0]):
        total = total + jnp.where((group == g)[..., None], x @ weights[g], 0.0)
    return total
