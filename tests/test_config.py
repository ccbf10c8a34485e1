"""Configurations: numbers are leaves, everything else is static, and bad values say why."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlax_lab.config import check, configuration, from_json, setting, to_json
from rlax_lab.errors import InputError, nearest
from rlax_lab.ppo import Config, check_config

FLOATS = {
    "log_std_init",
    "learning_rate",
    "adam_eps",
    "max_grad_norm",
    "gamma",
    "gae_lambda",
    "clip_range",
    "kl_coef",
    "kl_penalty_target",
    "target_kl",
    "value_clip_range",
    "value_coef",
    "entropy_coef",
}


def names_of_leaves(config):
    return {path[0].name for path, _ in jax.tree_util.tree_leaves_with_path(config)}


def test_floats_are_leaves_and_the_rest_is_static():
    """Of PPO's fields just the numbers are leaves; sizes, switches and names are structure."""
    full = Config(target_kl=0.1, value_clip_range=0.2)
    assert names_of_leaves(full) == FLOATS
    assert names_of_leaves(Config()) == FLOATS - {"target_kl", "value_clip_range"}  # both None
    structure = jax.tree.structure(Config())
    assert jax.tree.structure(Config(learning_rate=0.5)) == structure
    for change in (
        {"num_envs": 8},
        {"hidden_sizes": (32,)},
        {"anneal_learning_rate": False},
        {"activation": "relu"},
        {"max_grad_norm": None},
    ):
        assert jax.tree.structure(Config(**change)) != structure


def test_a_configuration_survives_flattening():
    """`jax.tree` takes a configuration apart and puts the same one together."""
    config = Config(learning_rate=0.25, hidden_sizes=(8, 4), target_kl=0.1, torso="nature_cnn")
    leaves, structure = jax.tree.flatten(config)
    assert structure.unflatten(leaves) == config
    doubled = jax.tree.map(lambda x: 2 * x, config)
    assert doubled == dataclasses.replace(
        config, **{name: 2 * getattr(config, name) for name in names_of_leaves(config)}
    )


def test_a_configuration_is_frozen_and_keyword_only():
    """Fields cannot be set afterwards, nor given by position, where an order would matter."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().gamma = 0.5
    with pytest.raises(TypeError):
        Config(1000)


def test_vmap_over_a_hyperparameter():
    """A batch of learning rates is one axis of the configuration; the rest is shared."""
    config = Config(learning_rate=jnp.array([0.1, 0.2, 0.4]), gamma=0.5, num_envs=3)
    axes = jax.tree.map(lambda x: 0 if jnp.ndim(x) else None, config)
    product = jax.vmap(lambda c: c.learning_rate * c.gamma * c.num_envs, in_axes=(axes,))(config)
    np.testing.assert_allclose(product, [0.15, 0.3, 0.6])


def test_jit_retraces_for_sizes_but_not_for_numbers():
    """A new learning rate reuses the compiled function; a new number of environments does not."""
    traced = []

    @jax.jit
    def value(config):
        traced.append(config.num_envs)
        return config.learning_rate * config.num_envs

    for rate in (0.1, 0.2, 0.3):
        np.testing.assert_allclose(value(Config(learning_rate=rate, num_envs=4)), 4 * rate)
    assert traced == [4]
    np.testing.assert_allclose(value(Config(learning_rate=0.3, num_envs=5)), 1.5)
    assert traced == [4, 5]


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [
        ("learning_rate", 0.0, "must be a finite number above 0."),
        ("learning_rate", float("nan"), "must be a finite number above 0."),
        ("learning_rate", float("inf"), "must be a finite number above 0."),
        ("learning_rate", "0.1", "must be a finite number above 0."),
        ("learning_rate", None, "must be a finite number above 0."),
        ("gamma", 1.5, "must be a finite number at least 0 and at most 1."),
        ("gamma", -0.1, "must be a finite number at least 0 and at most 1."),
        ("gamma", True, "must be a finite number at least 0 and at most 1."),
        ("value_coef", -1, "must be a finite number at least 0."),
        ("log_std_init", float("-inf"), "must be a finite number."),
        ("max_grad_norm", 0.0, "must be a finite number above 0."),
        ("num_envs", 0, "must be a whole number at least 1."),
        ("num_envs", 2.0, "must be a whole number at least 1."),
        ("num_envs", True, "must be a whole number at least 1."),
        ("num_envs", None, "must be a whole number at least 1."),
        ("num_envs", np.array([1, 2]), "must be a whole number at least 1."),
        ("shared_torso", 1, "must be true or false."),
        ("shared_torso", "false", "must be true or false."),
        ("hidden_sizes", (64, 0), "must be whole numbers above 0."),
        ("hidden_sizes", [64, 64], "must be whole numbers above 0."),
        ("hidden_sizes", (64.0,), "must be whole numbers above 0."),
        ("hidden_sizes", 64, "must be whole numbers above 0."),
        ("torso", "mpl", "must be one of mlp, nature_cnn, minatar_cnn; did you mean 'mlp'?"),
        ("torso", "resnet", "must be one of mlp, nature_cnn, minatar_cnn."),
        ("torso", 3, "must be one of mlp, nature_cnn, minatar_cnn."),
        ("activation", "Tanh", "must be one of tanh, relu, silu, gelu; did you mean 'tanh'?"),
    ],
)
def test_violations_name_the_field_the_value_and_what_is_allowed(field, value, sentence):
    """Every kind of field refuses what is not of its type or within its bounds."""
    with pytest.raises(InputError) as error:
        check(Config(**{field: value}))
    assert str(error.value) == f"{field} is {value!r}, but {sentence}"


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"gamma": 0.0, "gae_lambda": 1.0, "value_coef": 0},
        {"max_grad_norm": None, "target_kl": 0.1, "value_clip_range": None},
        {"hidden_sizes": ()},
        {"learning_rate": np.array([0.1, 0.2])},
        {"learning_rate": jnp.float32(0.1), "num_envs": np.int64(4)},
        {"torso": "nature_cnn", "shared_torso": True},
    ],
)
def test_what_is_allowed_passes(fields):
    """Bounds are inclusive where they say so, None where the hint does; arrays are of leaves."""
    check(Config(**fields))


@pytest.mark.parametrize(
    ("field", "values"),
    [("learning_rate", [0.1, -0.1]), ("gamma", [2.0, 0.9]), ("log_std_init", [0.0, np.inf])],
)
def test_arrays_of_hyperparameters_are_checked_whole(field, values):
    """One bad value among good ones is refused."""
    with pytest.raises(InputError, match=rf"^{field} is array.*, but must be a finite number"):
        check(Config(**{field: np.array(values)}))


def test_traced_hyperparameters_pass():
    """Under jit a number cannot be looked at and passes; static fields are still checked."""

    def inside(rate, num_envs):
        check(Config(learning_rate=rate, num_envs=num_envs))
        return rate

    assert jax.jit(inside, static_argnums=1)(-1.0, 4) == -1
    with pytest.raises(InputError, match="num_envs is 0"):
        jax.jit(inside, static_argnums=1)(0.1, 0)


def test_minibatches_must_divide_the_batch():
    """PPO's own condition names the batch and the nearest number that works."""
    with pytest.raises(InputError) as error:
        check_config(Config(num_envs=4, num_steps=5, num_minibatches=7))
    assert str(error.value) == (
        "num_minibatches is 7, which does not divide the batch of num_envs * num_steps = 20; "
        "the nearest number that does is 5."
    )
    check_config(Config(num_envs=4, num_steps=5, num_minibatches=10))


@pytest.mark.parametrize(
    "config",
    [
        Config(),
        Config(hidden_sizes=(), max_grad_norm=None, target_kl=1e-3),
        Config(hidden_sizes=(7, 5), activation="relu", learning_rate=1 / 3, num_envs=3),
    ],
)
def test_json_round_trip(config):
    """`from_json(to_json(c)) == c`, also through text: tuples, None and every digit survive."""
    assert from_json(Config, to_json(config)) == config
    assert from_json(Config, json.loads(json.dumps(to_json(config)))) == config


def test_json_values_are_plain():
    """Tuples are written as lists, and None and switches as they are."""
    values = to_json(Config(hidden_sizes=(7, 5)))
    assert values["hidden_sizes"] == [7, 5]
    assert values["target_kl"] is None
    assert values["anneal_learning_rate"] is True


def test_missing_json_fields_take_their_defaults():
    """A file written before a field existed can still be read."""
    assert from_json(Config, {"gamma": 0.5}) == Config(gamma=0.5)


def test_unknown_json_fields_name_the_nearest():
    """A field that does not exist is named, with the closest that does, if one is close."""
    for name, hint in [("learnin_rate", "; did you mean 'learning_rate'?"), ("zzz", ".")]:
        with pytest.raises(InputError) as error:
            from_json(Config, {name: 1})
        assert str(error.value) == f"{name} is not a field of the configuration{hint}"


def test_nearest_ignores_case_and_gives_up():
    """The closest option whatever its case, and nothing where none is close."""
    assert nearest("cartpole-v1", ["CartPole-v1", "Pong-v0"]) == "; did you mean 'CartPole-v1'?"
    assert nearest("xyz", ["CartPole-v1", "Pong-v0"]) == ""
    assert nearest("xyz", []) == ""


def test_configurations_can_be_extended():
    """A subclass has its parent's fields and its own, with leaves and checks for both."""

    @configuration
    class Extended(Config):
        temperature: float | None = setting(None, "a number of its own", low=1, high=2)
        depth: int = setting(2, "a size of its own", low=0)

    assert names_of_leaves(Extended(temperature=1.5)) == names_of_leaves(Config()) | {"temperature"}
    check(Extended(temperature=2))
    with pytest.raises(InputError, match=r"^temperature is 3, .* at least 1 and at most 2\.$"):
        check(Extended(temperature=3))
    with pytest.raises(InputError, match=r"^gamma is 2, "):
        check(Extended(gamma=2))
