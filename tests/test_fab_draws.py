"""Random draws of the fab: the generator, durations, and the sums that figures are kept in."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from envs.fab import draws
from envs.fab.wide import Wide

WORD = st.integers(0, 2**32 - 1)
COUNT = 40_000
# Known answers of Threefry-2x32 with 20 rounds (Random123's kat_vectors): counter, key, result.
KNOWN = [
    ((0, 0), (0, 0), (0x6B200159, 0x99BA4EFE)),
    ((2**32 - 1, 2**32 - 1), (2**32 - 1, 2**32 - 1), (0x1CB996FC, 0xBB002BE7)),
    ((0x243F6A88, 0x85A308D3), (0x13198A2E, 0x03707344), (0xC4923A9C, 0x483DF7A0)),
]


def threefry(key: tuple[int, int], counter: tuple[int, int]) -> tuple[int, int]:
    """Threefry-2x32 in Python's integers, round by round as its authors describe it."""
    schedule = [*key, key[0] ^ key[1] ^ 0x1BD11BDA]
    rotations = [13, 15, 26, 6, 17, 29, 16, 24]
    x, y = ((c + k) % 2**32 for c, k in zip(counter, key, strict=True))
    for i in range(20):
        x = (x + y) % 2**32
        left = rotations[i % 8]
        y = (y << left | y >> (32 - left)) % 2**32 ^ x
        if i % 4 == 3:
            n = i // 4 + 1
            x = (x + schedule[n % 3]) % 2**32
            y = (y + schedule[(n + 1) % 3] + n) % 2**32
    return x, y


def as_words(pair: tuple[int, int]) -> draws.Words:
    return draws.Words(*(jnp.uint32(x) for x in pair))


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN)
def test_threefry_gives_the_known_answers(
    counter: tuple[int, int], key: tuple[int, int], expected: tuple[int, int]
) -> None:
    assert threefry(key, counter) == expected
    # The upper four bits of the second word are the stream.
    stream, minor = counter[1] >> 28, counter[1] & (2**28 - 1)
    found = draws.draw(as_words(key), stream, jnp.uint32(counter[0]), jnp.int32(minor))
    assert tuple(map(int, found)) == expected


draw = jax.jit(draws.draw, static_argnums=1)


@given(WORD, WORD, st.integers(0, 10), st.integers(-(2**31), 2**31 - 1), st.integers(0, 2**28 - 1))
def test_draws_are_threefrys(a: int, b: int, stream: int, counter: int, minor: int) -> None:
    found = draw(as_words((a, b)), stream, jnp.int32(counter), jnp.int32(minor))
    expected = threefry((a, b), (counter % 2**32, stream << 28 | minor))
    assert tuple(map(int, found)) == expected


def test_the_generator_is_jaxs() -> None:
    """`jax.random` hashes counters 0, 1, ... in halves with the same function."""
    key = jax.random.key(11, impl="threefry2x32")
    high = jnp.zeros(8, jnp.uint32)
    found = draws.draw(draws.words(key), 0, high, jnp.arange(8))
    with jax.threefry_partitionable(True):
        bits = jax.random.bits(key, (8,), jnp.uint32)
    np.testing.assert_array_equal(np.asarray(found.a ^ found.b), np.asarray(bits))


def test_draws_broadcast_and_differ() -> None:
    """Elements are those of scalar calls; streams, counters and minors all count."""
    key = draws.words(jax.random.key(3))
    counter, minor = jnp.arange(5)[:, None], jnp.arange(4)[None]
    seen = set()
    for stream in range(11):
        table = draws.draw(key, stream, counter, minor)
        assert table.a.shape == table.b.shape == (5, 4)
        for i in range(5):
            for j in range(4):
                one = draw(key, stream, jnp.int32(i), jnp.int32(j))
                assert (int(table.a[i, j]), int(table.b[i, j])) == (int(one.a), int(one.b))
                seen.add((int(one.a), int(one.b)))
    assert len(seen) == 11 * 5 * 4


@given(WORD)
def test_uniforms_are_never_0_or_1(bits: int) -> None:
    for word in (bits, 0, 2**32 - 1):
        found = float(draws.uniform(jnp.uint32(word)))
        assert 0 < found < 1
        # No rounding: the sum has 24 bits.
        assert found == ((word >> 9) + 0.5) * 2.0**-23


def sample(
    kind: int, cv: float, mean: float = 1e6, kinds: tuple[int, ...] | None = None
) -> np.ndarray:
    bits = draws.draw(draws.words(jax.random.key(21)), draws.REPAIR, jnp.arange(COUNT))
    full = lambda x, dtype: jnp.full(COUNT, x, dtype)  # noqa: E731
    ticks = draws.duration(
        bits, full(mean, jnp.float32), full(kind, jnp.int32), full(cv, jnp.float32),
        kinds or (kind,),
    )  # fmt: skip
    assert ticks.dtype == jnp.int32
    return np.asarray(ticks)


def distribution(kind: int, cv: float) -> stats.rv_continuous:
    """Of mean 1 and the coefficient of variation."""
    if kind == draws.UNIFORM:
        return stats.uniform(1 - math.sqrt(3) * cv, 2 * math.sqrt(3) * cv)
    if kind == draws.EXPONENTIAL:
        return stats.expon()
    if kind == draws.LOGNORMAL:
        sigma = math.sqrt(math.log(1 + cv**2))
        return stats.lognorm(sigma, scale=math.exp(-(sigma**2) / 2))
    return stats.gamma(1 / cv**2, scale=cv**2)


SPREADS = [
    (draws.UNIFORM, 0.1),
    (draws.UNIFORM, 0.577),
    (draws.LOGNORMAL, 0.3),
    (draws.LOGNORMAL, 1.0),
    (draws.EXPONENTIAL, 1.0),
    (draws.GAMMA, 0.3),
    (draws.GAMMA, 1.0),
    (draws.GAMMA, 1.6),
]


@pytest.mark.parametrize(("kind", "cv"), SPREADS)
def test_durations_have_their_distribution(kind: int, cv: float) -> None:
    """Mean and deviation to five standard errors, all of it by Kolmogorov and Smirnov."""
    of_mean_1 = sample(kind, cv) / 1e6
    expected = distribution(kind, cv)
    assert stats.kstest(of_mean_1, expected.cdf).pvalue > 1e-3
    assert expected.mean() == pytest.approx(1)
    assert expected.std() == pytest.approx(cv)
    assert abs(of_mean_1.mean() - 1) < 5 * cv / math.sqrt(COUNT)
    # The variance of a sample's variance follows from the fourth moment.
    error = math.sqrt((expected.stats("k") + 2) / COUNT) * cv**2
    assert abs(of_mean_1.var() - cv**2) < 5 * error


@pytest.mark.parametrize("kind", range(5))
def test_what_else_occurs_changes_nothing(kind: int) -> None:
    """A kind gives the same times whether or not other kinds are compiled beside it."""
    np.testing.assert_array_equal(
        sample(kind, 0.5, 100.0), sample(kind, 0.5, 100.0, tuple(range(5)))
    )


def test_durations_are_whole_ticks_of_at_least_one() -> None:
    assert set(sample(draws.DETERMINISTIC, 0.0, 7.0)) == {7}
    assert sample(draws.EXPONENTIAL, 1.0, 1.0).min() == 1
    short = sample(draws.UNIFORM, 0.577, 2.0)
    assert set(short) == {1, 2, 3, 4}
    # Rounded to the nearest: half of the ticks around 2 are 2's.
    assert abs((short == 2).mean() - 0.25) < 0.02


@pytest.mark.parametrize("kind", [draws.LOGNORMAL, draws.EXPONENTIAL, draws.GAMMA])
def test_durations_are_bounded(kind: int) -> None:
    """However long the tail, ticks stay far from the largest int32."""
    ticks = sample(kind, 10.0, 2.5e7)
    assert ticks.max() == draws.LONGEST
    assert ticks.min() >= 1


LARGE = st.integers(0, 2**31 - 1)


@given(st.lists(st.tuples(LARGE, st.integers(0, 2**15 - 1)), min_size=1, max_size=20))
def test_wide_sums_are_pythons(products: list[tuple[int, int]]) -> None:
    """Sums and sums of products beyond 32 bits, exact; `numpy` is exact up to 2^53."""
    total, found = 0, Wide.zeros()
    for x, y in products:
        found = found.add(jnp.int32(x)).add_product(jnp.int32(x), jnp.int32(y))
        total += x + x * y
    assert (int(found.high) << 32) + int(found.low) == total
    assert int(found.numpy()) == total
    assert float(found.as_float()) == pytest.approx(total, rel=1e-6)


def test_wide_sums_carry() -> None:
    """Elementwise: only the sum that passes 2^32 carries."""
    full = Wide(jnp.uint32([0, 4]), jnp.uint32([2**32 - 1, 5]))
    found = full.add(jnp.int32([1, 1]))
    assert np.asarray(found.high).tolist() == [1, 4]
    assert np.asarray(found.low).tolist() == [0, 6]
