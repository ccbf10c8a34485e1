"""Keys of ours beside JAX's own, bit by bit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlax_lab import keys

DRAWS = {
    "bits": lambda key: jax.random.bits(key, (3, 5)),
    "bytes": lambda key: jax.random.bits(key, (7,), jnp.uint8),
    "halves": lambda key: jax.random.bits(key, (2, 2, 2), jnp.uint16),
    "a number": lambda key: jax.random.uniform(key),
    "nothing": lambda key: jax.random.normal(key, (0, 3)),
    "normal": lambda key: jax.random.normal(key, (64, 3)),
    "categorical": lambda key: jax.random.categorical(key, jnp.zeros((11, 4))),
    "permutation": lambda key: jax.random.permutation(key, 100),
    "folded": lambda key: jax.random.bits(jax.random.fold_in(key, 3_000_000_000), (4,)),
    "split": lambda key: jax.random.key_data(jax.random.split(key, (3, 2))),
}


@pytest.mark.parametrize("name", DRAWS)
@pytest.mark.parametrize("seed", [0, 1, -1, 2**31 - 1])
def test_draws_are_those_of_jax(name, seed):
    draw = DRAWS[name]
    ours, theirs = draw(keys.key(seed)), draw(jax.random.key(seed, impl="threefry2x32"))
    assert ours.dtype == theirs.dtype
    np.testing.assert_array_equal(ours, theirs)


def test_many_keys_at_once_under_jit():
    def draw(key):
        return jax.random.uniform(jax.random.split(key)[1], (4,))

    ours, theirs = keys.key(7), jax.random.key(7, impl="threefry2x32")
    found, wanted = (jax.jit(jax.vmap(draw))(jax.random.split(key, 5)) for key in (ours, theirs))
    np.testing.assert_array_equal(found, wanted)
    assert len(np.unique(found)) == 20


def test_a_draw_too_large_is_refused():
    with pytest.raises(ValueError, match="more than 2\\^32"):
        jax.jit(lambda key: jax.random.bits(key, (2**17, 2**16))).lower(keys.key(0))
