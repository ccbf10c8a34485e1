"""Networks: sizes in closed form, orthogonal weights, and the contract with a user's module."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnax.environments import spaces
from hypothesis import given
from hypothesis import strategies as st

from rlax_lab import networks, policy
from rlax_lab.errors import InputError
from rlax_lab.policy import PolicyConfig
from tests import probes

KEY = jax.random.key(0)


def shapes(module, observation):
    """Shapes of what `module` gives and of its parameters, without computing anything."""
    return jax.eval_shape(lambda x: module.init_with_output(KEY, x), observation)


def made_up(tree):
    """Random numbers in the shapes of `tree`: orthogonal weights take seconds to compile."""
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: np.asarray(rng.normal(size=x.shape), np.float32), tree)


def start(pi):
    """Parameters of a policy, with weights made up, that has seen no observations."""
    params = jax.eval_shape(pi.init, KEY)
    moments = jax.tree.map(lambda x: jnp.zeros(x.shape), params.moments)
    return params._replace(network=made_up(params.network), moments=moments)


def kernels(params):
    """The weights of `params`, each as a matrix from inputs to outputs, by their path."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return {
        jax.tree_util.keystr(path): np.float64(x).reshape(-1, x.shape[-1])
        for path, x in leaves
        if path[-1].key == "kernel"
    }


def assert_orthogonal(w, gain):
    """`w^T w`, or `w w^T` where there are fewer inputs than outputs, is gain^2 I."""
    product = w.T @ w if w.shape[0] >= w.shape[1] else w @ w.T
    np.testing.assert_allclose(product, gain**2 * np.eye(len(product)), atol=1e-5 * gain**2)


# --- NatureCNN ---


def test_nature_cnn_has_the_published_size():
    """With a head of 6 actions 1,687,206 parameters, from uint8 [B, 84, 84, 4] to [B, 512]."""
    observation = jax.ShapeDtypeStruct((3, 84, 84, 4), jnp.uint8)
    features, torso = shapes(networks.NatureCNN(), observation)
    assert (features.shape, features.dtype) == ((3, 512), jnp.float32)
    _, both = shapes(nn.Sequential([networks.NatureCNN(), nn.Dense(6)]), observation)
    convolutions = (8 * 8 * 4 + 1) * 32 + (4 * 4 * 32 + 1) * 64 + (3 * 3 * 64 + 1) * 64
    assert networks.count_parameters(torso) == convolutions + (7 * 7 * 64 + 1) * 512
    assert networks.count_parameters(both) == 1_687_206


def test_nature_cnn_scales_bytes_but_not_floats():
    """uint8 0 to 255 is seen as 0 to 1; floats are taken as they are; no feature is negative."""
    image = np.random.default_rng(0).integers(0, 256, (2, 36, 36, 1), np.uint8)
    module = networks.NatureCNN()
    features, params = jax.jit(module.init_with_output)(KEY, image)
    np.testing.assert_allclose(
        module.apply(params, image.astype(np.float32) / 255), features, rtol=1e-5, atol=1e-6
    )
    raw = module.apply(params, image.astype(np.float32))
    np.testing.assert_allclose(raw, 255 * features, rtol=1e-4, atol=1e-3)  # no biases yet
    assert np.min(features) == 0 < np.max(features)
    for w in kernels(params).values():
        assert_orthogonal(w, np.sqrt(2))


# --- MinAtarCNN ---


@pytest.mark.parametrize(("channels", "dtype"), [(4, jnp.bool_), (10, jnp.float32)])
def test_minatar_cnn_has_the_published_size(channels, dtype):
    """16 filters of 3x3 and 128 units, from [B, 10, 10, C] of any type to float32 [B, 128]."""
    observation = jax.ShapeDtypeStruct((3, 10, 10, channels), dtype)
    features, params = shapes(networks.MinAtarCNN(), observation)
    assert (features.shape, features.dtype) == ((3, 128), jnp.float32)
    convolution = (3 * 3 * channels + 1) * 16
    assert networks.count_parameters(params) == convolution + (8 * 8 * 16 + 1) * 128


def test_patch_conv_is_a_convolution():
    """On a 6 by 5 image, the same numbers as flax's own convolution with the same weights."""
    x = np.random.default_rng(1).normal(size=(2, 6, 5, 3)).astype(np.float32)
    module = networks.PatchConv(4, 3)
    params = made_up(shapes(module, x)[1])
    theirs = nn.Conv(4, (3, 3), padding="VALID").apply(params, x)
    assert theirs.shape == (2, 4, 3, 4)
    np.testing.assert_allclose(module.apply(params, x), theirs, rtol=1e-4, atol=1e-5)


def test_minatar_cnn_starts_orthogonal_and_takes_pixels_as_they_are():
    """Gain sqrt 2, no biases, no negative feature; bytes are not scaled, as they are 0 or 1."""
    image = np.random.default_rng(0).integers(0, 2, (2, 5, 4, 3), np.uint8)
    module = networks.MinAtarCNN()
    features, params = jax.jit(module.init_with_output)(KEY, image)
    np.testing.assert_array_equal(module.apply(params, image.astype(bool)), features)
    np.testing.assert_allclose(module.apply(params, 3 * image), 3 * features, rtol=1e-4, atol=1e-4)
    assert np.min(features) == 0 < np.max(features)
    assert len(kernels(params)) == 2
    for w in kernels(params).values():
        assert_orthogonal(w, np.sqrt(2))


# --- MLP ---


def test_mlp_flattens_pytrees():
    """All leaves of an observation, in order, as float32 behind the batch axis."""
    observation = {
        "image": jnp.arange(12, dtype=jnp.uint8).reshape(2, 3, 2),
        "inner": {"count": jnp.array([5, 6]), "flags": jnp.array([[True, False], [False, True]])},
    }
    flat = networks.flatten(observation)
    expected = [[0, 1, 2, 3, 4, 5, 5, 1, 0], [6, 7, 8, 9, 10, 11, 6, 0, 1]]
    np.testing.assert_array_equal(flat, expected)
    assert flat.dtype == jnp.float32
    features, params = shapes(networks.MLP((16, 4)), observation)
    assert features.shape == (2, 4)
    assert networks.count_parameters(params) == (9 + 1) * 16 + (16 + 1) * 4


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("tanh", np.tanh),
        ("relu", lambda x: np.maximum(x, 0)),
        ("silu", lambda x: x / (1 + np.exp(-x))),
        # The tanh form of Hendrycks and Gimpel (2016).
        ("gelu", lambda x: x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))),
    ],
)
def test_mlp_applies_its_activation_after_every_layer(name, function):
    """Two layers by hand: f(f(x W + b) V + c), with the activation that the name says."""
    x = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    module = networks.MLP((5, 2), name)
    params = made_up(shapes(module, x)[1])
    expected = np.float64(x)
    for layer in ("Dense_0", "Dense_1"):
        weights = params["params"][layer]
        expected = function(expected @ weights["kernel"] + weights["bias"])
    np.testing.assert_allclose(module.apply(params, x), expected, rtol=1e-4, atol=1e-5)


TORSOS = {
    "mlp": ((4, 3), partial(networks.MLP, (16, 8))),
    "minatar_cnn": ((4, 10, 10, 4), networks.MinAtarCNN),
    "nature_cnn": ((2, 36, 36, 2), networks.NatureCNN),
}


@pytest.mark.parametrize("name", TORSOS)
def test_bfloat16_is_what_the_torso_computes_in(name):
    """Features have 8 significant bits and are float32's to that precision; weights and their
    gradients are float32."""
    shape, torso = TORSOS[name]
    x = np.random.default_rng(1).uniform(size=shape).astype(np.float32)
    whole, half = torso(), torso(dtype=jnp.bfloat16)
    params = jax.tree.map(
        lambda w: w / np.sqrt(max(np.prod(w.shape[:-1]), 1)), made_up(shapes(half, x)[1])
    )
    assert {str(w.dtype) for w in jax.tree.leaves(shapes(half, x)[1])} == {"float32"}
    want, features = whole.apply(params, x), half.apply(params, x)
    assert features.dtype == jnp.float32
    np.testing.assert_array_equal(features, features.astype(jnp.bfloat16).astype(jnp.float32))
    assert np.any(features != want)
    np.testing.assert_allclose(features, want, atol=2.0**-6 * np.abs(want).max())
    loss = lambda module: lambda p: jnp.sum(module.apply(p, x) ** 2)  # noqa: E731
    for g, exact in zip(
        *(jax.tree.leaves(jax.grad(loss(module))(params)) for module in (half, whole)), strict=True
    ):
        assert g.dtype == jnp.float32
        # As vectors: a unit near its kink may be on either side of it.
        assert np.linalg.norm(g - exact) < 0.2 * np.linalg.norm(exact)


def test_every_activation_is_tested():
    """The names above are all there are."""
    assert set(networks.ACTIVATIONS) == {"tanh", "relu", "silu", "gelu"}


# --- ActorCritic ---


def actor_critic(**kwargs):
    return networks.ActorCritic(partial(networks.MLP, (8, 8), "tanh"), **kwargs)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize(("size", "free"), [(5, 0), (6, 3)])
def test_actor_critic_size(shared, size, free):
    """Two torsos or one, a head for what looks at the observation, free parameters, a value."""
    module = actor_critic(size=size, free=free, shared=shared)
    (outputs, values), params = shapes(module, jnp.zeros((7, 4)))
    assert (outputs.shape, values.shape) == ((7, size), (7,))
    torso = (4 + 1) * 8 + (8 + 1) * 8
    heads = (8 + 1) * (size - free) + free + (8 + 1) * 1
    assert networks.count_parameters(params) == (1 if shared else 2) * torso + heads


@pytest.mark.parametrize("shared", [False, True])
def test_actor_critic_weights_are_orthogonal(shared):
    """Gain sqrt 2 in the torsos, 0.01 for the policy, 1 for the value; biases start at 0."""
    params = jax.jit(actor_critic(size=5, shared=shared).init)(KEY, jnp.zeros((3, 4)))
    gains = []
    for path, w in kernels(params).items():
        gain = np.sqrt(2) if "MLP" in path else {5: 0.01, 1: 1.0}[w.shape[1]]
        assert_orthogonal(w, gain)
        gains.append(gain)
    assert len(gains) == (4 if shared else 6)
    inputs = [w for path, w in kernels(params).items() if "MLP" in path and "Dense_0" in path]
    assert shared or np.any(inputs[0] != inputs[1])  # the towers do not start the same
    leaves = jax.tree_util.tree_leaves_with_path(params)
    assert all(np.all(x == 0) for path, x in leaves if path[-1].key == "bias")


@pytest.mark.parametrize("shared", [False, True])
def test_towers_are_apart_or_shared(shared):
    """The value's gradient reaches the policy's torso only where there is one torso."""
    module, x = actor_critic(size=5, shared=shared), jnp.ones((3, 4))
    params = made_up(shapes(module, x)[1])
    gradient = jax.jit(jax.grad(lambda p: jnp.sum(module.apply(p, x)[1])))(params)["params"]
    reached = {
        name
        for name, tower in gradient.items()
        if any(np.any(g != 0) for g in jax.tree.leaves(tower))
    }
    assert reached == ({"MLP_0", "Dense_1"} if shared else {"MLP_1", "Dense_1"})


def test_free_outputs_do_not_look_at_the_observation():
    """The last outputs are the same parameters for every observation."""
    module = actor_critic(size=6, free=3)
    x = jax.random.normal(KEY, (4, 2))
    params = made_up(shapes(module, x)[1])
    outputs, _ = module.apply(params, x)
    np.testing.assert_array_equal(outputs[:, 3:], np.tile(params["params"]["free"], (4, 1)))
    assert np.all(np.std(outputs[:, :3], axis=0) > 0)
    gradient = jax.jit(jax.grad(lambda p: jnp.sum(module.apply(p, x)[0][:, 3:])))(params)["params"]
    np.testing.assert_array_equal(gradient.pop("free"), [4, 4, 4])
    assert all(np.all(g == 0) for g in jax.tree.leaves(gradient))


# --- QNetwork ---


def q_network(**kwargs):
    return networks.QNetwork(partial(networks.MLP, (8,), "tanh"), 3, **kwargs)


@pytest.mark.parametrize("dueling", [False, True])
@pytest.mark.parametrize("atoms", [None, 1, 5])
def test_q_network_size(atoms, dueling):
    """A number, or K of them, per action; dueling adds a hidden layer per stream and a value."""
    values, params = shapes(q_network(num_atoms=atoms, dueling=dueling), jnp.zeros((7, 4)))
    assert values.shape == ((7, 3) if atoms is None else (7, 3, atoms))
    k = atoms or 1
    size = (4 + 1) * 8 + (8 + 1) * 3 * k
    if dueling:
        size += 2 * (8 + 1) * 8 + (8 + 1) * k
    assert networks.count_parameters(params) == size


def q_by_hand(params, x, dueling, atoms):
    """Action values ``[B, 3, K]`` in float64, from the weights."""
    weights = params["params"]

    def layer(x, name):
        return x @ np.float64(weights[name]["kernel"]) + weights[name]["bias"]

    torso = weights["MLP_0"]["Dense_0"]
    features = np.tanh(np.float64(x) @ torso["kernel"] + torso["bias"])
    if not dueling:
        return layer(features, "Dense_0").reshape(-1, 3, atoms)
    advantage = layer(np.maximum(layer(features, "Dense_0"), 0), "Dense_1").reshape(-1, 3, atoms)
    value = layer(np.maximum(layer(features, "Dense_2"), 0), "Dense_3").reshape(-1, 1, atoms)
    return value + advantage - (advantage[:, :1] + advantage[:, 1:2] + advantage[:, 2:]) / 3


@pytest.mark.parametrize("dueling", [False, True])
@pytest.mark.parametrize("atoms", [None, 5])
def test_q_network_by_hand(atoms, dueling):
    """Plain values from a layer on the torso; V + A - mean A of two streams (equation 9)."""
    x = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
    module = q_network(num_atoms=atoms, dueling=dueling)
    params = made_up(shapes(module, x)[1])
    expected = q_by_hand(params, x, dueling, atoms or 1)
    expected = expected if atoms else expected[..., 0]
    np.testing.assert_allclose(module.apply(params, x), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("atoms", [None, 5])
def test_dueling_streams_are_identifiable(atoms):
    """More advantage for every action changes nothing; more value is more for every action."""
    x = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
    module, k = q_network(num_atoms=atoms, dueling=True), atoms or 1
    params = made_up(shapes(module, x)[1])
    q = np.asarray(module.apply(params, x)).reshape(6, 3, k)
    more = np.arange(1, 1 + k, dtype=np.float32)
    for name, copies, expected in (("Dense_1", 3, q), ("Dense_3", 1, q + more)):
        raised = jax.tree.map(np.copy, params)
        raised["params"][name]["bias"] += np.tile(more, copies)
        ours = np.asarray(module.apply(raised, x)).reshape(6, 3, k)
        np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-4)


# --- policy.make: environments, and modules of a user's own ---


class Image(probes.ConstantReward):
    """Shows an image of `size` x `size` bytes, bare or beside an action mask."""

    def __init__(self, size, masked=False):
        super().__init__()
        self.size, self.masked = size, masked

    def show(self, state):
        image = jnp.zeros((self.size, self.size, 3), jnp.uint8)
        return {"image": image, "action_mask": jnp.ones(2, bool)} if self.masked else image


class WrongMask(probes.Masked):
    """Shows a mask with an entry too few."""

    def show(self, state):
        return {"observation": jnp.ones(1), "action_mask": state.signal[:3]}


def make(env, network=None, **fields):
    return policy.make(env, env.default_params, PolicyConfig(**fields), network)


def refusal(*args, **kwargs):
    with pytest.raises(InputError) as error:
        make(*args, **kwargs)
    return str(error.value)


class Linear(nn.Module):
    """A user's network that keeps the contract."""

    size: int

    @nn.compact
    def __call__(self, observation):
        return nn.Dense(self.size)(observation), nn.Dense(1)(observation)[..., 0]


class NoValue(nn.Module):
    size: int

    @nn.compact
    def __call__(self, observation):
        return nn.Dense(self.size)(observation)


class ColumnValue(nn.Module):
    size: int

    @nn.compact
    def __call__(self, observation):
        return nn.Dense(self.size)(observation), nn.Dense(1)(observation)


class Failing(nn.Module):
    size: int

    @nn.compact
    def __call__(self, observation):
        raise RuntimeError("a reason\n  on two lines")


@pytest.mark.parametrize("lead", [(), (5,), (3, 5)])
def test_a_network_of_one_s_own(lead):
    """A module that keeps the contract is used, for observations with any leading axes."""
    pi = make(probes.ObservationReward(), Linear)
    params = start(pi)
    assert networks.count_parameters(params.network) == (1 + 1) * 2 + (1 + 1)
    observation = np.random.default_rng(1).normal(size=(*lead, 1)).astype(np.float32)
    outputs, values = pi.outputs(params, observation)
    assert (outputs.shape, values.shape) == ((*lead, 2), lead)
    policy_head, value_head = params.network["params"].values()
    expected = observation @ policy_head["kernel"] + policy_head["bias"]
    np.testing.assert_allclose(outputs, expected, rtol=1e-5, atol=1e-6)
    expected = observation @ value_head["kernel"] + value_head["bias"]
    np.testing.assert_allclose(values, expected[..., 0], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(pi.value(params, observation), values)


@pytest.mark.parametrize("torso", ["mlp", "minatar_cnn", "nature_cnn"])
def test_the_configuration_says_what_the_torso_computes_in(torso):
    """The heads are float32's: with the same features they give the same."""
    env = Image(36) if torso != "mlp" else probes.ObservationReward()
    whole, half = (make(env, torso=torso, precision=p) for p in ("float32", "bfloat16"))
    params = jax.tree.map(lambda x: 0.1 * x, start(whole))
    shape = (4, 1) if torso == "mlp" else (4, 36, 36, 3)
    observation = np.random.default_rng(1).uniform(0.1, 0.9, shape).astype(np.float32)
    exact, rounded = (pi.outputs(params, observation) for pi in (whole, half))
    for x, y in zip(exact, rounded, strict=True):
        assert y.dtype == jnp.float32
        assert np.any(x != y)
        assert np.any(y != y.astype(jnp.bfloat16).astype(jnp.float32))
        np.testing.assert_allclose(x, y, atol=0.05 * np.abs(x).max())


def test_a_network_with_wrong_shapes_is_refused():
    """Values as a column, or the wrong number of outputs, would broadcast; they are named."""
    env = probes.ObservationReward()
    assert refusal(env, ColumnValue) == (
        "the network ColumnValue gives shapes ((2, 2), (2, 1)) for a batch of 2, but must give "
        "((2, 2), (2,)): policy outputs and values."
    )
    assert refusal(env, lambda size: Linear(size + 1)) == (
        "the network Linear gives shapes ((2, 3), (2,)) for a batch of 2, but must give "
        "((2, 2), (2,)): policy outputs and values."
    )


def test_a_network_that_fails_is_named_with_the_reason():
    """What the module raises is passed on, in one line; a single output is no pair."""
    env = probes.ObservationReward()
    prefix = "cannot be called with a batch of observations:"
    assert (
        refusal(env, Failing) == f"the network Failing {prefix} RuntimeError: a reason on two lines"
    )


def test_a_mask_of_the_wrong_shape_is_refused():
    """A mask needs an entry for every action."""
    assert refusal(WrongMask()) == (
        "the action mask has shape (3,), but the action space needs one entry for each of its 4 "
        "choices."
    )


def test_the_mask_rules_out_actions_and_is_not_shown():
    """Masked logits are the least float, and the default network has no inputs for the mask."""
    env = probes.Masked()
    pi = make(env, hidden_sizes=(8,))
    params = start(pi)
    tower = (1 + 1) * 8
    assert networks.count_parameters(params.network) == 2 * tower + (8 + 1) * 4 + (8 + 1)
    outputs, _ = pi.outputs(params, env.observations)
    mask = env.observations["action_mask"]
    np.testing.assert_array_equal(outputs == jnp.finfo(jnp.float32).min, ~mask)
    everything = pi.outputs(params, env.observations | {"action_mask": np.ones_like(mask)})[0]
    np.testing.assert_array_equal(outputs[mask], everything[mask])


@pytest.mark.parametrize(
    ("env", "seen"),
    [
        (probes.ObservationReward(), [(1,)]),
        (probes.PytreeObservation(), [(3, 2), (), (2,)]),
        (Image(35), [(35, 35, 3)]),
    ],
)
def test_nature_cnn_takes_images_alone(env, seen):
    """Vectors, several arrays and images below 36x36 are refused with their shapes."""
    assert refusal(env, torso="nature_cnn") == (
        f"torso is 'nature_cnn', but observations have shapes {seen}; it takes one image "
        "[height, width, channels] of at least 36x36: use 'mlp'."
    )


def test_minatar_cnn_takes_images_alone():
    """Vectors and images too small for a 3x3 filter are refused; one that fits it is taken."""
    for env, seen in ((probes.ObservationReward(), [(1,)]), (Image(2), [(2, 2, 3)])):
        assert refusal(env, torso="minatar_cnn") == (
            f"torso is 'minatar_cnn', but observations have shapes {seen}; it takes one image "
            "[height, width, channels] of at least 3x3: use 'mlp'."
        )
    pi = make(Image(3, masked=True), torso="minatar_cnn", shared_torso=True)
    params = jax.eval_shape(pi.init, KEY)
    sizes = (3 * 3 * 3 + 1) * 16 + (16 + 1) * 128 + (128 + 1) * (2 + 1)
    assert networks.count_parameters(params.network) == sizes


@pytest.mark.parametrize("masked", [False, True])
def test_nature_cnn_takes_the_smallest_image(masked):
    """36x36 leaves one pixel, and a mask beside the image does not matter."""
    pi = make(Image(36, masked), torso="nature_cnn", shared_torso=True)
    convolutions = (8 * 8 * 3 + 1) * 32 + (4 * 4 * 32 + 1) * 64 + (3 * 3 * 64 + 1) * 64
    heads = (512 + 1) * (2 + 1)
    params = jax.eval_shape(pi.init, KEY)
    assert networks.count_parameters(params.network) == convolutions + (64 + 1) * 512 + heads


def test_bytes_are_not_normalised():
    """Normalising observations leaves images as they are, and takes them in without an error."""
    env = Image(3)
    pi = make(env, hidden_sizes=(4,), normalize_observations=True)
    params = start(pi)
    image = jax.random.randint(KEY, (5, 3, 3, 3), 0, 256).astype(jnp.uint8)
    outputs = pi.outputs(params, image)[0]
    np.testing.assert_array_equal(pi.outputs(pi.observe(params, image), image)[0], outputs)


def test_floats_are_normalised_by_what_was_observed():
    """After `observe` the network sees the standardised observation; the weights stay."""
    pi = make(probes.ObservationReward(), Linear, normalize_observations=True)
    plain = make(probes.ObservationReward(), Linear)
    params = start(pi)
    x = jax.random.uniform(KEY, (50, 1), minval=2.0, maxval=9.0)
    seen = pi.observe(params, x)
    standard = (x - jnp.mean(x)) / jnp.std(x)
    unnormalised = params._replace(moments=None)
    np.testing.assert_array_equal(pi.outputs(params, x)[0], plain.outputs(unnormalised, x)[0])
    np.testing.assert_allclose(
        pi.outputs(seen, x)[0], plain.outputs(unnormalised, standard)[0], rtol=1e-4, atol=1e-5
    )


def test_continuous_actions_start_at_the_configured_deviation():
    """`log_std_init` is the Gaussian's initial log standard deviation, for every observation."""
    pi = make(probes.ObservationReward("continuous"), hidden_sizes=(), log_std_init=-0.5)
    outputs, _ = pi.outputs(jax.jit(pi.init)(KEY), jnp.array([[-1.0], [1.0]]))
    np.testing.assert_array_equal(pi.distribution(outputs).log_std, [[-0.5], [-0.5]])


def test_an_unsupported_action_space_is_refused():
    """The space is named by `policy.make` as by `action_head`."""

    class Odd(probes.ConstantReward):
        def action_space(self, params=None):
            return spaces.Dict({"a": spaces.Discrete(2)})

    assert refusal(Odd()).startswith("the action space Dict(")


# Wider on either side, as wide, and of one row.
@given(st.sampled_from([(7, 4, 6), (7, 6, 2), (5, 3, 3), (1, 8, 1)]), st.integers(0, 2**32 - 1))
def test_the_gradient_of_a_product_is_that_of_the_definition(sizes, seed):
    batch, n, m = sizes
    rng = np.random.default_rng(seed)
    x, kernel, g = (rng.normal(size=s) for s in ((batch, n), (n, m), (batch, m)))
    y, back = jax.vjp(networks.product, jnp.float32(x), jnp.float32(kernel))
    np.testing.assert_allclose(y, x @ kernel, rtol=1e-4, atol=1e-5)
    dx, dkernel = back(jnp.float32(g))
    np.testing.assert_allclose(dx, g @ kernel.T, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(dkernel, x.T @ g, rtol=1e-4, atol=1e-5)
