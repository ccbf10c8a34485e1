"""The step counter against Python's integers."""

import jax
import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from rlax_lab.types import Counter

words = st.integers(0, 2**32 - 1)
fast_add = jax.jit(Counter.add)


def counter(n):
    """A counter that stands at `n`."""
    return Counter(np.uint32(n >> 32), np.uint32(n & 0xFFFFFFFF))


@given(words, words, words)
@example(0, 2**31 - 1, 1)
@example(0, 2**32 - 1, 1)
@example(0, 2**32 - 1, 2**32 - 1)
@example(2**31 - 1, 2**32 - 1, 1)
@example(5, 0, 0)
def test_addition_is_exact(high, low, n):
    """Any count below 2^64 and any step below 2^32 add up as Python's integers do."""
    total = ((high << 32) | low) + n
    assert int(fast_add(counter((high << 32) | low), np.uint32(n))) == total % 2**64


@given(st.lists(words, max_size=12))
def test_sums_are_exact(steps):
    """A count from zero is the sum of its steps, past 2^31 and 2^32."""
    count = Counter.zero()
    for n in steps:
        count = count.add(n)
    assert int(count) == sum(steps)


def test_a_count_in_a_scan_passes_2_to_the_32():
    """Under jit, a thousand steps of 2^23 count to 2^23 * 1000, which 32 bits cannot hold."""
    count, _ = jax.lax.scan(lambda c, _: (c.add(2**23), None), Counter.zero(), length=1000)
    assert int(count) == 2**23 * 1000 > 2**32


@given(words, words)
@example(0, 2**32 - 1)
@example(1, 0)
def test_as_float_is_the_count(high, low):
    """To float32's precision, and exactly below 2^24."""
    n = (high << 32) | low
    # Each word rounds by at most 2^-24 of itself, and so does their sum.
    assert abs(int(counter(n).as_float()) - n) <= 2**-23 * n
    small = n % 2**24
    assert int(counter(small).as_float()) == small
