"""Gradients added up over chunks of rows, and over parts, against closed forms in float64."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlax_lab import gradients, losses, shards

CHUNK, FEATURES, AGENTS = 8, 3, 2


class Rows(NamedTuple):
    """Rows ``[B, ...]`` or ``[B, A, ...]``, of which those count that `where` says."""

    x: jax.Array
    y: jax.Array
    where: jax.Array | None


class Weighted(NamedTuple):
    """The same with what makes a mean of them one over those."""

    x: jax.Array
    y: jax.Array
    weight: jax.Array | None


def weighted(rows):
    where = None if rows.where is None else jnp.asarray(rows.where)
    return Weighted(rows.x, rows.y, shards.weights(where))


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch):
    monkeypatch.setattr(gradients, "_CHUNK", CHUNK)


def loss(weights, rows):
    """The mean squared error of a linear map, and a report of two means."""
    error = rows.x @ weights - rows.y
    squares = losses.mean(jnp.square(error), rows.weight)
    return squares, {"squares": squares, "error": losses.mean(error, rows.weight)}


def closed_form(weights, rows):
    """Its gradient 2/n sum e x over the n entries that count, and the same report."""
    x, y, weights = (np.float64(a) for a in (rows.x, rows.y, weights))
    where = np.ones(y.shape, bool) if rows.where is None else np.asarray(rows.where)
    x, y = x[where], y[where]
    error, n = x @ weights - y, max(1, len(y))
    return 2 * error @ x / n, {"squares": np.sum(error**2) / n, "error": np.sum(error) / n}


def data(seed, lead, share=None):
    """Random weights and rows; with a share, about as many count, and no row of some chunks."""
    rng = np.random.default_rng(seed)
    weights = rng.normal(size=FEATURES).astype(np.float32)
    x = rng.normal(size=(*lead, FEATURES)).astype(np.float32)
    y = rng.normal(1.0, 2.0, size=lead).astype(np.float32)
    if share is None:
        return weights, Rows(x, y, None)
    where = rng.random(lead) < share
    where[: CHUNK * rng.integers(0, 1 + lead[0] // CHUNK)] = False
    return weights, Rows(x, y, where)


def find(weights, rows):
    return gradients.gradient(loss, weights, weighted(rows))


def assert_close(got, want):
    """Sums of fewer than 1000 terms of order 10, in float32."""
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5), got, want)


@settings(max_examples=15)
@given(
    rows=st.integers(1, 60),
    share=st.sampled_from([None, 0.0, 0.1, 0.7, 1.0]),
    agents=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_gradient_in_chunks(rows, share, agents, seed):
    """Whatever divides the rows, and whatever counts, it is the gradient over all that do."""
    weights, batch = data(seed, (rows, AGENTS) if agents else (rows,), share)
    assert_close(jax.jit(find)(weights, batch), closed_form(weights, batch))


@pytest.mark.parametrize(
    "where",
    [
        np.repeat([False, True, False], CHUNK),
        np.repeat([True, False, False], CHUNK),
        np.arange(3 * CHUNK) == 5,
        np.zeros(3 * CHUNK, bool),
    ],
    ids=["middle chunk", "first chunk", "one row", "none"],
)
def test_chunks_in_which_nothing_counts(where):
    """They add nothing; where nothing counts at all, the gradient is 0."""
    weights, rows = data(0, (3 * CHUNK,))
    rows = rows._replace(where=where)
    got = find(weights, rows)
    assert_close(got, closed_form(weights, rows))
    if not where.any():
        np.testing.assert_array_equal(got[0], 0.0)


@settings(max_examples=200)
@given(st.integers(1, 10_000))
def test_chunks_divide_the_rows(rows):
    """The largest divisor up to the chunk, but never one below a quarter of it."""
    divisors = [d for d in range(1, CHUNK + 1) if rows % d == 0]
    want = divisors[-1] if divisors[-1] >= CHUNK // 4 else rows
    assert gradients._chunk(rows, CHUNK) == want


@pytest.mark.parametrize(("rows", "chunk"), [(5, 5), (8, 8), (16, 8), (27, 3), (30, 6), (37, 37)])
@pytest.mark.parametrize("masked", [False, True])
def test_the_loss_sees_a_chunk_at_a_time(rows, chunk, masked):
    """Or all rows, where no divisor is near the chunk's size."""
    seen = set()

    def watched(weights, rows):
        seen.add(len(rows.x))
        return loss(weights, rows)

    weights, batch = data(1, (rows,), 0.5 if masked else None)
    gradients.gradient(watched, weights, weighted(batch))
    assert seen == {chunk}


@pytest.mark.parametrize(("rows", "chunk"), [(5, 5), (16, 8), (27, 3)])
def test_a_function_of_each_row(rows, chunk):
    """It sees a chunk at a time, and the results are in the order of the rows."""
    seen = set()

    def function(rows):
        seen.add(len(rows.x))
        return rows.x * rows.y[:, None]

    batch = data(0, (rows,))[1]
    want = np.asarray(batch.x) * np.asarray(batch.y)[:, None]
    np.testing.assert_array_equal(gradients.each(function, batch._replace(where=None)), want)
    assert seen == {chunk}


@pytest.mark.parametrize(("name", "chunk"), [(shards.PARTS, CHUNK), (shards.DEVICES, CHUNK // 2)])
def test_several_devices_take_half_a_chunk_each(name, chunk):
    """As each has but one core's cache; parts of a run on one device take a whole one each."""
    seen = set()

    def watched(weights, rows):
        seen.add(len(rows.x))
        return loss(weights, rows)

    weights, batch = data(3, (2, 2 * CHUNK))
    inner = lambda rows: gradients.gradient(watched, weights, weighted(rows))  # noqa: E731
    found = jax.vmap(inner, axis_name=name)(batch)
    assert seen == {chunk}
    whole = batch._replace(x=batch.x.reshape(-1, FEATURES), y=batch.y.reshape(-1))
    assert_close(jax.tree.map(lambda x: x[0], found), closed_form(weights, whole))


def test_an_accelerator_takes_all_rows_at_once(monkeypatch):
    """Chunks are for a CPU's cache."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    test_the_loss_sees_a_chunk_at_a_time(16, 16, True)
    monkeypatch.setattr(jax.lax, "map", None)
    batch = data(0, (16,))[1]._replace(where=None)
    np.testing.assert_array_equal(gradients.each(lambda rows: rows.y, batch), batch.y)


def parted(parts):
    """`find` over rows ``[parts, B, ...]``, once for all of them."""
    axes = {"in_axes": (None, 0), "out_axes": None, "axis_name": shards.PARTS, "axis_size": parts}
    return jax.jit(jax.vmap(find, **axes))


@settings(max_examples=10)
@given(
    parts=st.integers(1, 5),
    rows=st.sampled_from([1, 4, 16]),
    share=st.sampled_from([None, 0.02, 0.2, 1.0]),
    seed=st.integers(0, 2**16),
)
def test_gradient_in_parts(parts, rows, share, seed):
    """It is that over the rows of all parts, of which each may have more or fewer that count."""
    weights, rows = data(seed, (parts, rows, AGENTS), share)
    if share is not None:
        counts = np.random.default_rng(seed).random((parts, 1, 1)) < 0.7
        rows = rows._replace(where=rows.where & counts)
    assert_close(parted(parts)(weights, rows), closed_form(weights, rows))


@pytest.mark.parametrize("entries", [[(0, 3, 1)], [(1, 0, 0), (3, 15, 1), (3, 2, 0)], []])
def test_parts_in_which_hardly_anything_counts(entries):
    """One entry of four parts is a mean of one entry."""
    weights, rows = data(2, (4, 16, AGENTS))
    where = np.zeros((4, 16, AGENTS), bool)
    for entry in entries:
        where[entry] = True
    rows = rows._replace(where=where)
    assert_close(parted(4)(weights, rows), closed_form(weights, rows))
