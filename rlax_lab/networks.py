"""Networks: flax modules from observations to features, policies and values.

A network that a learner takes, ours or a user's, is a flax module called with a batch of
observations ``[B, ...]``; it returns the policy's outputs ``[B, size]`` (logits, or means and
log standard deviations) and the values ``[B]``.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from rlax_lab.types import PyTree

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "tanh": jnp.tanh,
    "relu": nn.relu,
    "silu": nn.silu,
    "gelu": nn.gelu,
}


def orthogonal(scale: float) -> Callable[..., jax.Array]:
    """An initialiser: a random orthogonal matrix times `scale` (Saxe et al. 2014).

    Gram-Schmidt on Gaussian vectors gives the uniform distribution (Mezzadri 2007). A QR
    decomposition would too, but batched ones, as vmapped seeds make them, can deadlock on CPU:
    jaxlib's kernel waits on the thread pool that it runs in, and two of them can occupy a pool of
    two.
    """

    def init(key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32) -> jax.Array:
        return scale * _orthogonal(key, tuple(shape), dtype)

    return init


# Jitted, so that a shape is traced once: flax asks for that of every weight whenever it is used.
@functools.partial(jax.jit, static_argnums=(1, 2))
def _orthogonal(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    rows, columns = math.prod(shape[:-1]), shape[-1]
    number = jnp.arange(min(rows, columns))

    def step(i: jax.Array, vectors: jax.Array) -> jax.Array:
        # The next one is done, and what the ones after it have of it is taken from them. As sums,
        # which compile in half the time of products, for each of a network's layers.
        i = i % len(number)
        done = vectors[i] * jax.lax.rsqrt(jnp.sum(vectors[i] ** 2))
        along = jnp.where(number > i, jnp.sum(vectors * done[None], axis=1), 0.0)
        return jnp.where((number == i)[:, None], done[None], vectors - along[:, None] * done[None])

    vectors = jax.random.normal(key, (len(number), max(rows, columns)), dtype)
    # All of it twice, to keep float32 accuracy.
    basis = jax.lax.fori_loop(0, 2 * len(number), step, vectors)
    return (basis if rows < columns else basis.T).reshape(shape)


def dense(size: int, scale: float = 2.0**0.5, dtype: Any = jnp.float32) -> nn.Dense:
    """A dense layer with orthogonal weights of gain `scale` and no initial bias.

    The weights are float32, whatever the `dtype` that it computes in.
    """
    fast = _dot_general if jax.default_backend() == "cpu" else None
    return nn.Dense(size, dtype=dtype, kernel_init=orthogonal(scale), dot_general=fast)


def _dot_general(x: jax.Array, kernel: jax.Array, *_: Any, **__: Any) -> jax.Array:
    return product(x, kernel)


@jax.custom_vjp
def product(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """``x @ kernel``, ``[B, n] x [n, m]``, with a gradient that is quick on a CPU.

    The gradient of the kernel contracts both factors over their first axis, for which XLA has no
    fast kernel on CPU: half of the time of PPO's update. So the narrower one is transposed first;
    the barriers keep XLA from undoing that.
    """
    return x @ kernel


def _product(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return x @ kernel, (x, kernel)


def _product_gradient(
    factors: tuple[jax.Array, jax.Array], g: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, kernel = factors
    keep = jax.lax.optimization_barrier
    if x.shape[1] <= g.shape[1]:
        return g @ kernel.T, keep(x.T) @ g
    return g @ kernel.T, keep(keep(g.T) @ x).T


product.defvjp(_product, _product_gradient)


def flatten(observation: PyTree) -> jax.Array:
    """All leaves ``[B, ...]`` of an observation as one float32 array ``[B, F]``."""
    leaves = jax.tree.leaves(observation)
    return jnp.concatenate([x.reshape(x.shape[0], -1).astype(jnp.float32) for x in leaves], axis=-1)


class MLP(nn.Module):
    """Flattened observations through dense layers ``[B, ...] -> [B, sizes[-1]]``."""

    sizes: Sequence[int] = (64, 64)
    activation: str = "tanh"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, observation: PyTree) -> jax.Array:
        x = flatten(observation)
        for size in self.sizes:
            x = ACTIVATIONS[self.activation](dense(size, dtype=self.dtype)(x))
        return x.astype(jnp.float32)


class NatureCNN(nn.Module):
    """The network of Mnih et al. (2015) up to its last hidden layer.

    Images ``[B, 84, 84, C]`` (uint8 0 to 255, or floats taken as they are) to ``[B, 512]``.
    """

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, observation: PyTree) -> jax.Array:
        (image,) = jax.tree.leaves(observation)
        x = image.astype(jnp.float32)
        if image.dtype == jnp.uint8:
            x = x / 255.0
        for features, size, stride in ((32, 8, 4), (64, 4, 2), (64, 3, 1)):
            x = nn.relu(
                nn.Conv(
                    features,
                    (size, size),
                    (stride, stride),
                    padding="VALID",
                    dtype=self.dtype,
                    kernel_init=orthogonal(2.0**0.5),
                )(x)
            )
        x = nn.relu(dense(512, dtype=self.dtype)(x.reshape(x.shape[0], -1)))
        return x.astype(jnp.float32)


class PatchConv(nn.Module):
    """A convolution with stride 1 and no padding, as one matrix product over patches.

    ``[B, H, W, C]`` to ``[B, H - size + 1, W - size + 1, features]``. For small images with few
    channels, and for seeds side by side, a convolution proper is many times slower on CPU.
    """

    features: int
    size: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = self.size, self.size, x.shape[-1], self.features
        kernel = self.param("kernel", orthogonal(2.0**0.5), shape)
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        height, width = x.shape[1] - self.size + 1, x.shape[2] - self.size + 1
        offsets = [(i, j) for i in range(self.size) for j in range(self.size)]
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
        patches = jnp.concatenate(
            [x[:, i : i + height, j : j + width] for i, j in offsets], axis=-1
        )
        y = patches @ kernel.reshape(-1, self.features)
        return y + jnp.broadcast_to(bias, y.shape)


class MinAtarCNN(nn.Module):
    """The network of Young and Tian (2019) up to its last hidden layer.

    Small images ``[B, 10, 10, C]``, one channel per kind of object, to ``[B, 128]``.
    """

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, observation: PyTree) -> jax.Array:
        (image,) = jax.tree.leaves(observation)
        x = image.astype(jnp.float32)
        x = nn.relu(PatchConv(16, 3, self.dtype)(x))
        x = nn.relu(dense(128, dtype=self.dtype)(x.reshape(x.shape[0], -1)))
        return x.astype(jnp.float32)


class ActorCritic(nn.Module):
    """A policy and a value on one torso, or on one torso each.

    Attributes:
      torso: makes a module from observations to features; called once per tower.
      size: the policy's outputs per observation.
      free: how many of them are parameters that do not look at the observation (the log
        standard deviations of a Gaussian).
      free_init: their initial value.
      shared: one torso for both.
    """

    torso: Callable[[], nn.Module]
    size: int
    free: int = 0
    free_init: float = 0.0
    shared: bool = False

    @nn.compact
    def __call__(self, observation: PyTree) -> tuple[jax.Array, jax.Array]:
        features = self.torso()(observation)
        value_features = features if self.shared else self.torso()(observation)
        outputs = dense(self.size - self.free, 0.01)(features)
        if self.free:
            constant = nn.initializers.constant(self.free_init)
            free = self.param("free", constant, (self.free,))
            free = jnp.broadcast_to(free, (*outputs.shape[:-1], self.free))
            outputs = jnp.concatenate([outputs, free], axis=-1)
        return outputs, dense(1, 1.0)(value_features)[..., 0]


class QNetwork(nn.Module):
    """Action values ``[B, actions]``, or of each action's return distribution ``[B, actions, K]``.

    Attributes:
      torso: makes a module from observations to features.
      num_actions: how many actions there are.
      num_atoms: K, the outputs per action of a distributional learner; None for plain values.
      dueling: a stream for the value of the state and one for the advantages of the actions, each
        with a hidden layer of its own (Wang et al. 2016, equation 9).
    """

    torso: Callable[[], nn.Module]
    num_actions: int
    num_atoms: int | None = None
    dueling: bool = False

    @nn.compact
    def __call__(self, observation: PyTree) -> jax.Array:
        features = self.torso()(observation)
        atoms = self.num_atoms or 1

        def stream(outputs: int) -> jax.Array:
            x = features
            if self.dueling:
                x = nn.relu(dense(features.shape[-1])(x))
            return dense(outputs * atoms, 1.0)(x).reshape(-1, outputs, atoms)

        scores = stream(self.num_actions)
        if self.dueling:
            scores = stream(1) + scores - jnp.mean(scores, axis=1, keepdims=True)
        return scores if self.num_atoms else scores[..., 0]


def count_parameters(params: Any) -> int:
    """The number of trainable numbers in `params`."""
    return sum(x.size for x in jax.tree.leaves(params))
