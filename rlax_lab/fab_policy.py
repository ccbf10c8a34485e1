"""Dispatching by many agents, one per tool group, for `envs.fab.env.FabEnv` and `ppo.make`.

Actors score the lots that wait at their groups, however many there are. What they add to is how a
dispatching rule ranks them, so an untrained policy dispatches as the rule does, tries what the rule
finds nearly as good, and learning starts from there.

What a fab costs is a sum over its lots, and so is its value: the critic gives that of every lot in
the fab. A decision is judged by what became of the lots that it chose from, each followed on its
way (generalised advantages, lot by lot). What happens meanwhile to the others is noise to that
decision, and most of the noise there is: the fab as a whole as the only measure, a reward and a
value for all, learns far slower (Wolpert and Tumer 2002 give agents such rewards of their own).
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from rlax_lab import networks
from rlax_lab.config import check, configuration, setting
from rlax_lab.distributions import Choices
from rlax_lab.errors import InputError
from rlax_lab.model import Params
from rlax_lab.policy import Policy
from rlax_lab.returns import gae
from rlax_lab.rollout import Trajectory
from rlax_lab.types import Environment, PyTree

# What values of lots, which are in days, are of the order of.
_DAYS = 10.0


@configuration
class Config:
    """Configuration of the policy's network."""

    hidden: int = setting(32, "units of each of two hidden layers; a critic has twice", low=1)
    prior: float = setting(
        6.0,
        "by how much log-odds of an untrained policy fall as the rule's preference for a lot does",
        low=0,
    )
    actors: str = setting(
        "shared",
        "one set of weights for all groups, the same with some numbers learnt for each group, or "
        "one set each",
        choices=("shared", "embedded", "separate"),
    )


CRITICS = ("lots", "central", "independent")
# Weights of a policy in which its scores are linear, but for the rule's preference.
LINEAR = ("index", "actor_2", "actor_bias_2")
# Numbers that are learnt for each group, where actors are embedded.
_EMBEDDING = 4


def of_actor(name: str) -> bool:
    """Whether a weight of the network is the policy's, not the critic's."""
    return name in ("index", "embedding") or name.startswith("actor")


def make(
    env: Environment, env_params: Any, config: Config | None = None, critic: str | None = None
) -> Policy:
    """The policy of the groups of a fab: an agent each.

    Args:
      env, env_params: a `FabEnv` and its parameters; with shared actors, and a critic of any kind,
        the weights also fit other fabs.
      config: of the network.
      critic: one of `CRITICS`: a value of each lot, one of the whole fab, or one of what each group
        sees; None for none, whose values are 0.

    Raises:
      InputError: on a configuration that cannot work.
    """
    config = config if config is not None else Config()
    check(config)
    if not config.hidden and config.actors != "shared":
        raise InputError(
            f"actors is {config.actors}, but where hidden is 0 it must be shared: an index has one "
            "set of weights."
        )
    groups = len(jax.tree.leaves(env.action_space(env_params).spaces))
    lots = int(env.observation_space(env_params).spaces["group"].shape[0])
    fields = [field.name for field in dataclasses.fields(Config)]
    network = Network(
        **{name: getattr(config, name) for name in fields}, critic=critic, groups=groups
    )

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
        raw = pi.mode() if key is None else pi.sample(key)
        return to_action(raw, observation.group.shape[-1])

    def to_action(raw: jax.Array, lots: int = lots) -> jax.Array:
        # A group without a lot to choose does not wait: it is not asked.
        return jnp.where(raw < lots, raw, -1)

    def value(params: Params, observation: PyTree) -> jax.Array:
        return outputs(params, observation)[1]

    def acts(observation: PyTree) -> jax.Array:
        """Groups with at least two lots to choose from."""
        options = observation.options
        return Choices(options, observation.group, options, observation.active).decides

    def credit(
        trajectory: Trajectory,
        value: jax.Array,
        following: jax.Array,
        gamma: float | jax.Array,
        lambda_: float | jax.Array,
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        seen, step = trajectory.observation, trajectory.step
        after = step.next_observation
        inside = seen.number >= 0
        stays = inside & (after.number == seen.number)
        # Not discounted by time: every lot leaves, so its costs are finite, and a discount would
        # hurry those about to leave, which pays at once, at the cost of all that come after them.
        discount = jnp.where(stays, gamma, 0.0)
        ended = jnp.broadcast_to(step.ended[..., None], stays.shape)
        advantage = gae(after.gains, discount, value, following, ended, lambda_)
        advantage = jnp.where(inside, advantage, 0.0)
        zeros = jnp.zeros(seen.active.shape)
        t, n, _ = jnp.indices(stays.shape, sparse=True)
        chosen_from = jnp.where(seen.options, advantage, 0.0)
        of_agents = zeros.at[t, n, seen.group].add(chosen_from, mode="drop")
        return of_agents, value + advantage, inside

    return Policy(
        init,
        outputs,
        lambda pi: pi,
        to_action,
        act,
        value,
        lambda params, _: params,
        acts,
        credit if critic == "lots" else None,
    )


class Network(nn.Module):
    """Scores of lots ``[B, N]``, and values of groups ``[B, G]`` or lots ``[B, N]``."""

    hidden: int
    prior: float
    actors: str
    critic: str | None
    groups: int

    @nn.compact
    def __call__(self, seen: Any) -> tuple[jax.Array, jax.Array]:
        batch = seen.group.shape[0]
        waiting = _mean_by_group(seen.lots, seen.group, seen.options, self.groups)
        fab = jnp.broadcast_to(seen.fab[:, None], (batch, self.groups, seen.fab.shape[-1]))
        # What an agent sees: its group, the lots there on average, and the fab.
        own = jnp.concatenate([seen.groups, waiting, fab], axis=-1)
        sees = own
        if self.actors == "embedded":
            which = self.param("embedding", nn.initializers.normal(1.0), (self.groups, _EMBEDDING))
            which = jnp.broadcast_to(which, (batch, *which.shape))
            sees = jnp.concatenate([own, which], axis=-1)
        preference = seen.preference[..., None]
        lots = jnp.concatenate([preference / 5, seen.lots], axis=-1)
        # An index, as rules are, and what a network adds to it.
        index = self.param("index", nn.initializers.zeros_init(), (lots.shape[-1],))
        scores = lots @ index + self.prior * seen.preference
        if self.hidden:
            scores = scores + self._of_lots("actor", 0.01, lots, sees, seen.group, self.hidden)
        over = seen.over[:, None]
        if self.critic is None:
            value = jnp.zeros((batch, self.groups))
        elif self.critic == "lots":
            value = self._of_lots("critic", 0.1, lots, own, seen.group, 2 * self.hidden)
            # Lots cost about as many days as they stay.
            value = jnp.where(seen.number >= 0, _DAYS * value, 0.0)
        elif self.critic == "independent":
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

    def _of_lots(
        self, name: str, gain: float, lots: jax.Array, own: jax.Array, group: jax.Array, width: int
    ) -> jax.Array:
        """``[B, N]`` of lots ``[B, N, F]`` and what their groups see ``[B, G, K]``; actors that are
        separate have weights for each group."""
        separate = name == "actor" and self.actors == "separate"
        lead = (self.groups,) if separate else ()

        def weights(layer: int, shape: tuple[int, int], gain: float) -> tuple[jax.Array, jax.Array]:
            draw = networks.orthogonal(gain)

            def each(key: jax.Array) -> jax.Array:
                if not separate:
                    return draw(key, shape)
                return jax.vmap(lambda k: draw(k, shape))(jax.random.split(key, self.groups))

            bias = nn.initializers.zeros_init()
            matrix = self.param(f"{name}_{layer}", each)
            return matrix, self.param(f"{name}_bias_{layer}", bias, (*lead, shape[1]))

        def dense(x: jax.Array, matrix: jax.Array) -> jax.Array:
            return _by_its_group(x, group, matrix) if separate else x @ matrix

        features = lots.shape[-1]
        matrix, bias = weights(0, (features + own.shape[-1], width), 2**0.5)
        # What is the same for all lots of a group is worked out once for it.
        of_group = jnp.einsum(
            "bgf,gfk->bgk" if separate else "bgf,fk->bgk", own, matrix[..., features:, :]
        )
        x = dense(lots, matrix[..., :features, :]) + _of_group(
            of_group + jnp.broadcast_to(bias, of_group.shape), group
        )
        x = jnp.tanh(x)
        for layer, units, scale in ((1, width, 2**0.5), (2, 1, gain)):
            matrix, bias = weights(layer, (width, units), scale)
            x = dense(x, matrix)
            if separate:
                bias = _of_group(jnp.broadcast_to(bias, (*own.shape[:-1], units)), group)
            x = x + jnp.broadcast_to(bias, x.shape)
            x = jnp.tanh(x) if layer == 1 else x
        return x[..., 0]

    def _perceptron(self, name: str, size: int, gain: float, x: jax.Array) -> jax.Array:
        """Two hidden layers."""
        for layer, units in enumerate((self.hidden, self.hidden, size)):
            scale = gain if layer == 2 else 2**0.5
            shape = (x.shape[-1], units)
            x = x @ self.param(f"{name}_{layer}", networks.orthogonal(scale), shape)
            bias = self.param(f"{name}_bias_{layer}", nn.initializers.zeros_init(), (units,))
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
