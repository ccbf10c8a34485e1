"""Replay against plain Python: what is kept, what is drawn and how often, and what it costs."""

import collections
import functools
import itertools
import math
import re
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

from rlax_lab.replay import Buffer, SumTree, importance_weights, scale
from tests import reference

KEY = jax.random.key(0)
DRAWS = 20_000
# Chance of a false alarm of one test of draws; keys are fixed, so it is taken once.
ALPHA = 1e-4

seeds = st.integers(0, 2**32 - 1)


# --- Buffer ---

# How many rows at a time go into a buffer of some capacity.
BLOCKS = {1: (1, 1, 1), 5: (1, 2, 5), 8: (3, 4, 8)}

add, take = jax.jit(Buffer.add), jax.jit(Buffer.take)
draw_indices = jax.jit(Buffer.draw, static_argnums=2)
scaled = jax.jit(scale)


def transitions(numbers):
    """Transitions that tell which they are in every array, of many types and shapes."""
    n = np.asarray(numbers)
    image = (n[:, None, None] + np.arange(6).reshape(2, 3)) % 256
    return {
        "image": image.astype(np.uint8),
        "inner": (n.astype(np.int32), n % 3 == 0),
        "half": (n / 2).astype(np.float16),
        "reward": np.sqrt(n).astype(np.float32),
    }


def assert_same(ours, expected):
    """The same structure, types and bits."""
    jax.tree.map(np.testing.assert_array_equal, ours, expected)
    assert [x.dtype for x in jax.tree.leaves(ours)] == [x.dtype for x in jax.tree.leaves(expected)]


def empty(capacity):
    return Buffer.empty(jax.tree.map(lambda x: x[0], transitions([0])), capacity)


@given(st.sampled_from(list(BLOCKS)), st.lists(st.integers(0, 2), max_size=9), seeds)
def test_the_buffer_keeps_the_newest(capacity, blocks, seed):
    """After any blocks of rows it holds what a queue would, each in the place it was said to go."""
    buffer, written = empty(capacity), 0
    queue, places = collections.deque(maxlen=capacity), {}
    assert buffer.capacity == capacity
    for choice in blocks:
        n = BLOCKS[capacity][choice]
        numbers = list(range(written, written + n))
        buffer, indices = add(buffer, transitions(numbers))
        queue.extend(numbers)
        places |= dict(zip(np.asarray(indices).tolist(), numbers, strict=True))
        written += n
        assert (buffer.size, buffer.position) == (len(queue), written % capacity)
        # Every slot was written before any is written twice, and the oldest is next.
        assert sorted(places) == list(range(len(queue)))
        assert sorted(places.values()) == list(queue)
        stored = [np.asarray(x)[: buffer.size] for x in jax.tree.leaves(buffer.items)]
        assert_same(stored, jax.tree.leaves(transitions([places[i] for i in sorted(places)])))
    if blocks:
        indices = np.asarray(draw_indices(buffer, jax.random.key(seed), (4, 8)))
        assert indices.shape == (4, 8)
        drawn = [places[i] for i in indices.ravel()]  # no other slot
        expected = jax.tree.map(lambda x: x.reshape(4, 8, *x.shape[1:]), transitions(drawn))
        assert_same(take(buffer, indices), expected)


def test_seeds_do_not_share_a_buffer():
    """Under vmap two buffers at different positions do what each does alone, to the last bit."""
    alone = []
    for filled in (2, 4):
        buffer, _ = add(empty(5), transitions(range(100 * filled, 100 * filled + filled)))
        alone.append(buffer)
    rows = [transitions(range(10, 12)), transitions(range(20, 22))]
    both, more = (jax.tree.map(lambda *x: np.stack(x), *pair) for pair in (alone, rows))
    added, indices = jax.jit(jax.vmap(Buffer.add))(both, more)
    keys = jax.random.split(KEY, 2)
    drawn = jax.jit(jax.vmap(lambda b, k: b.draw(k, (64,))))(added, keys)
    for i in range(2):
        expected, places = add(alone[i], rows[i])
        assert_same(jax.tree.map(lambda x, i=i: x[i], added), expected)
        np.testing.assert_array_equal(indices[i], places)
        np.testing.assert_array_equal(drawn[i], expected.draw(keys[i], (64,)))
    assert (drawn[0].max(), drawn[1].max()) == (3, 4)  # of 4 transitions, and of a full buffer


@pytest.mark.parametrize("written", [5, 8, 12])
def test_transitions_are_drawn_alike(written):
    """Chi-square of 20,000 draws of a buffer of 8: part filled, full, and wrapped around."""
    buffer = empty(8)
    for first in range(0, written, 4):
        buffer, _ = add(buffer, transitions(range(first, min(first + 4, written))))
    size = min(written, 8)
    indices = np.asarray(draw_indices(buffer, KEY, (DRAWS,)))
    assert stats.chisquare(np.bincount(indices, minlength=size)).pvalue > ALPHA
    # With replacement: one draw says nothing of the next.
    pairs = np.bincount(size * indices[::2] + indices[1::2], minlength=size**2)
    assert stats.chisquare(pairs).pvalue > ALPHA


@pytest.mark.parametrize("rows", [0, 6])
def test_blocks_that_do_not_fit_are_refused(rows):
    """Nothing, or more rows than the buffer holds, of which some would meet in one place."""
    with pytest.raises(AssertionError):
        empty(5).add(transitions(range(rows)))


@given(st.integers(0, 2**32 - 1), st.integers(1, 2**31 - 1))
def test_words_are_scaled_as_whole_numbers_are(bits, n):
    assert int(scaled(jnp.uint32(bits), jnp.int32(n))) == bits * n >> 32


# --- SumTree ---

CAPACITIES = (1, 2, 3, 8, 11)
# Such that sums of 16 stay finite in float32, and neighbours can vanish beside each other.
WEIGHTS = (0.0, 1e-37, 1e-30, 1e-7, 0.1, 1 / 3, 1.0, 3.0, 2.0**24, 1e30, 2e37)

set_leaves = jax.jit(SumTree.set)
draw_leaves = jax.jit(SumTree.draw, static_argnums=2)


def next_power_of_two(n):
    width = 1
    while width < n:
        width *= 2
    return width


def tree_of(weights):
    weights = np.float32(weights)
    return set_leaves(SumTree.empty(len(weights)), np.arange(len(weights)), weights)


def check_nodes(tree, leaves):
    """Leaves are `leaves`, then zeros, and each other node is the float32 sum of its children."""
    nodes, width = np.asarray(tree.nodes), next_power_of_two(len(leaves))
    assert (nodes.shape, nodes.dtype) == ((2 * width,), np.float32)
    assert (tree.width, 2**tree.depth) == (width, width)
    np.testing.assert_array_equal(nodes[width:], [*leaves, *[0] * (width - len(leaves))])
    for i in range(1, width):
        assert nodes[i] == nodes[2 * i] + nodes[2 * i + 1]
    np.testing.assert_allclose(tree.total, math.fsum(np.float64(leaves)), rtol=1e-6)


@given(st.sampled_from(CAPACITIES), seeds)
def test_every_node_is_the_sum_of_its_children(capacity, seed):
    """After any sets, of some leaves several times at once, and for any capacity."""
    rng = np.random.default_rng(seed)
    tree, leaves = SumTree.empty(capacity), np.zeros(capacity, np.float32)
    check_nodes(tree, leaves)
    for _ in range(4):
        weights = (rng.choice(WEIGHTS, capacity) * rng.uniform(0.5, 1, capacity)).astype(np.float32)
        indices = rng.integers(0, capacity, 7)
        tree = set_leaves(tree, indices, weights[indices])
        leaves[indices] = weights[indices]
        check_nodes(tree, leaves)


def test_rounding_errors_do_not_pile_up():
    """A huge weight that comes and goes leaves the total of the others as it was."""
    tree = tree_of([0.1] * 8)
    before = tree.total
    for _ in range(3):
        tree = set_leaves(tree, np.array([3]), np.float32([1e30]))
        tree = set_leaves(tree, np.array([3]), np.float32([0.1]))
    assert tree.total == before


def test_an_index_for_every_weight():
    """Indices and weights of different shapes are refused, also where they would broadcast."""
    with pytest.raises(AssertionError):
        SumTree.empty(4).set(jnp.arange(3), jnp.ones(1))


@functools.cache
def draw_given(n):
    """``(tree, u [n]) -> (indices, weights)``: `SumTree.draw` with the uniform numbers u."""

    def draw(tree, u):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(jax.random, "uniform", lambda key, shape: u)
            return tree.draw(KEY, n)

    return jax.jit(draw)


edges = st.sampled_from([0.0, 2.0**-24, 0.25, 0.5, 1 - 2.0**-24]) | st.floats(
    0, 1, exclude_max=True, width=32
)


@given(
    st.lists(st.sampled_from(WEIGHTS), min_size=11, max_size=11),
    st.lists(edges, min_size=7, max_size=7),
)
def test_a_leaf_of_weight_zero_is_never_drawn(weights, u):
    """Whatever is rounded away: weights of all magnitudes, and draws on the edges of the strata.

    Eleven leaves in a tree of sixteen: those beyond the capacity are never drawn either.
    """
    assume(any(weights))
    tree = tree_of(weights)
    indices, drawn = draw_given(7)(tree, np.float32(u))
    assert np.all(np.asarray(indices) < 11)
    np.testing.assert_array_equal(drawn, np.float32(weights)[indices])
    assert np.all(drawn > 0)


@pytest.mark.parametrize("capacity", CAPACITIES)
def test_the_only_leaf_with_a_weight_is_drawn(capacity):
    """Wherever it is, by every draw."""
    for leaf in {0, capacity // 2, capacity - 1}:
        tree = set_leaves(SumTree.empty(capacity), np.array([leaf]), np.float32([0.3]))
        for u in (0.0, 0.5, 1 - 2.0**-24):
            indices, weights = draw_given(7)(tree, np.full(7, u, np.float32))
            np.testing.assert_array_equal(indices, leaf)
            np.testing.assert_array_equal(weights, np.float32(0.3))


# Some far below the width of a stratum, one above that of several, and zeros among them.
UNEVEN = np.array([1, 0, 3, 0.05, 7, 0, 0, 0.4, 2, 1.5, 0.05])


def counts_of(indices):
    return np.bincount(np.asarray(indices).ravel(), minlength=len(UNEVEN))


@pytest.mark.parametrize("n", [1, 8])
def test_leaves_are_drawn_in_proportion_to_their_weights(n):
    """Chi-square of 20,000 draws, in batches of one and of eight; even odds fail the same test."""
    tree, keys = tree_of(UNEVEN), jax.random.split(KEY, DRAWS // n)
    indices, weights = jax.jit(jax.vmap(lambda key: tree.draw(key, n)))(keys)
    np.testing.assert_array_equal(weights, np.float32(UNEVEN)[indices])
    counts, positive = counts_of(indices), UNEVEN > 0
    assert counts[positive].sum() == DRAWS
    # Strata only bring the counts closer to their means.
    expected = DRAWS * UNEVEN / UNEVEN.sum()
    assert stats.chisquare(counts[positive], expected[positive]).pvalue > ALPHA
    assert stats.chisquare(counts[positive]).pvalue < ALPHA


def test_draws_are_stratified():
    """The i-th of n draws falls into the i-th n-th of the total, and anywhere in there."""
    n, tree = 16, tree_of(UNEVEN)
    keys = jax.random.split(KEY, 2000)
    indices = np.asarray(jax.jit(jax.vmap(lambda key: tree.draw(key, n)[0]))(keys))
    ends = np.cumsum(UNEVEN) / UNEVEN.sum() * n
    starts = ends - UNEVEN / UNEVEN.sum() * n

    def in_its_stratum(indices):
        i = np.arange(n)
        return np.all((starts[indices] < i + 1 + 1e-5) & (ends[indices] > i - 1e-5))

    assert in_its_stratum(indices)
    assert not in_its_stratum(np.roll(indices, 1, axis=1))
    mixed = []
    for i in range(n):
        # The part of each leaf that lies in the stratum.
        share = np.maximum(np.minimum(ends, i + 1) - np.maximum(starts, i), 0)
        inside = share > 1e-9
        counts = counts_of(indices[:, i])[inside]
        if len(counts) > 1:
            mixed.append(i)
            assert stats.chisquare(counts, 2000 * share[inside]).pvalue > ALPHA
    # A draw from one stratum says nothing of those from others.
    for i, j in itertools.pairwise(mixed):
        both = stats.contingency.crosstab(indices[:, i], indices[:, j]).count
        assert stats.chi2_contingency(both).pvalue > ALPHA


def test_seeds_do_not_share_a_tree():
    """Under vmap sets and draws are those of each tree alone, to the last bit."""
    rng = np.random.default_rng(0)
    trees = [tree_of(rng.uniform(size=11)) for _ in range(3)]
    indices = rng.integers(0, 11, (3, 7))
    weights = np.float32(rng.uniform(size=(3, 11)))
    weights = np.take_along_axis(weights, indices, axis=1)
    keys = jax.random.split(KEY, 3)

    @jax.jit
    @jax.vmap
    def together(tree, indices, weights, key):
        tree = tree.set(indices, weights)
        return tree, tree.draw(key, 16)

    stacked = jax.tree.map(lambda *x: jnp.stack(x), *trees)
    ours, drawn = together(stacked, indices, weights, keys)
    for i, tree in enumerate(trees):
        alone = set_leaves(tree, indices[i], weights[i])
        np.testing.assert_array_equal(ours.nodes[i], alone.nodes)
        assert_same(jax.tree.map(lambda x, i=i: x[i], drawn), draw_leaves(alone, keys[i], 16))


# --- What it costs ---

BATCH = 32


def draw_and_set(tree, key):
    """What a learner does: draws by priority, and gives new ones to what it drew.

    The drawn weights are needed for something else, which may come after the set.
    """

    def step(tree, key):
        indices, weights = tree.draw(key, BATCH)
        tree = tree.set(indices, jax.random.uniform(key, (BATCH,)))
        return tree, importance_weights(weights, 0.5)

    return jax.lax.scan(step, tree, jax.random.split(key, 3))


def draw_by_cumulative_sum(tree, key):
    """A draw that looks at every leaf."""
    mass = tree.total * jax.random.uniform(key, (BATCH,))
    return jnp.searchsorted(jnp.cumsum(tree.nodes[tree.width :]), mass)


def set_and_rebuild(tree, key):
    """A set that makes every node new."""
    leaves = tree.nodes[tree.width :].at[:BATCH].set(jax.random.uniform(key, (BATCH,)))
    levels = [leaves]
    while len(levels[-1]) > 1:
        levels.append(levels[-1].reshape(-1, 2).sum(axis=1))
    return SumTree(jnp.concatenate([jnp.zeros(1), *levels[::-1]]))


def look_up_after_set(tree, key):
    """A set that the tree of before is still needed after, so that it works on a copy."""
    return tree.set(jnp.arange(BATCH), jax.random.uniform(key, (BATCH,))), tree.total, tree


class Cost(NamedTuple):
    """What the compiler says of a program; nothing runs.

    Attributes:
      flops: operations, those in a loop counted once.
      passes: through all loops.
      temporary: bytes beside arguments and results.
      fresh: bytes of results that are not written in place of an argument.
    """

    flops: float
    passes: int
    temporary: int
    fresh: int


def cost(f, in_place, *arguments):
    """The cost of `f`, which may overwrite its first argument if `in_place`."""
    compiled = jax.jit(f, donate_argnums=(0,) if in_place else ()).lower(*arguments).compile()
    memory = compiled.memory_analysis()
    return Cost(
        compiled.cost_analysis()["flops"],
        sum(map(int, re.findall(r"known_trip_count[^0-9]*(\d+)", compiled.as_text()))),
        memory.temp_size_in_bytes,
        memory.output_size_in_bytes - memory.alias_size_in_bytes,
    )


def costs_of_trees(f, in_place, seeds=1):
    """The costs of ``f(tree, key)`` for 2^10 leaves and for 2^20, for one seed or several."""
    for capacity in (2**10, 2**20):
        shapes = jax.eval_shape(lambda n=capacity: (SumTree.empty(n), jax.random.key(0)))
        if seeds > 1:
            shapes = jax.tree.map(
                lambda x: jax.ShapeDtypeStruct((seeds, *x.shape), x.dtype), shapes
            )
        yield cost(jax.vmap(f) if seeds > 1 else f, in_place, *shapes)


def grows(small, large):
    """In what the larger costs more than the smaller, but for loops of twice the passes."""
    times = {"flops": 1.1, "passes": 2, "temporary": 1.1, "fresh": 1.1}
    return {name for name, k in times.items() if getattr(large, name) > k * getattr(small, name)}


@pytest.mark.parametrize("seeds", [1, 2])
def test_the_cost_of_a_tree_grows_with_its_depth(seeds):
    """Draws and sets take as many passes as there are levels, over a batch, and copy no tree."""
    small, large = costs_of_trees(draw_and_set, True, seeds)
    assert not grows(small, large)
    assert large.passes - small.passes == 10 + 10  # ten levels more for the draw and for the set
    assert not grows(*costs_of_trees(lambda tree, key: tree.draw(key, BATCH), False, seeds))


@pytest.mark.parametrize(
    ("f", "in_place", "what"),
    [
        (draw_by_cumulative_sum, False, {"flops", "temporary"}),
        (set_and_rebuild, True, {"flops"}),
        (look_up_after_set, True, {"fresh"}),
    ],
)
def test_a_cost_that_grows_with_the_capacity_is_found(f, in_place, what):
    """Ways of the same that look at every leaf, or copy the tree."""
    assert grows(*costs_of_trees(f, in_place)) >= what


def test_the_cost_of_a_buffer_does_not_grow():
    """Adding and drawing need no room beside the buffer, and write it in place."""

    def use(buffer, rows, key):
        buffer, _ = buffer.add(rows)
        return buffer, buffer.take(buffer.draw(key, (BATCH,)))

    costs = []
    for capacity in (2**10, 2**20):
        buffer, key = jax.eval_shape(lambda n=capacity: (empty(n), jax.random.key(0)))
        costs.append(cost(use, True, buffer, transitions(range(BATCH)), key))
    assert not grows(*costs)


# --- Importance weights ---


@given(seeds, st.sampled_from([0.0, 0.4, 1.0]))
def test_importance_weights(seed, beta):
    """(N P)^-beta over the batch's largest, from weights that are any multiple of P."""
    rng = np.random.default_rng(seed)
    leaves = (10.0 ** rng.uniform(-4, 2, 50)).astype(np.float32)
    batch = leaves[rng.integers(0, 50, 16)]
    probabilities = batch / np.float64(leaves).sum()
    expected = reference.importance_weights(probabilities, 50, beta)
    ours = importance_weights(jnp.asarray(batch), beta)
    np.testing.assert_allclose(ours, expected, rtol=1e-5)
    assert np.max(ours) == 1


def test_importance_weights_by_hand():
    """The least likely weighs 1; one four times as likely a quarter, or a half at beta 1/2."""
    weights = jnp.float32([2, 8, 2, 32])
    for beta, expected in (
        (0.0, [1, 1, 1, 1]),
        (0.5, [1, 0.5, 1, 0.25]),
        (1.0, [1, 0.25, 1, 0.0625]),
    ):
        np.testing.assert_allclose(importance_weights(weights, beta), expected, rtol=1e-6)
