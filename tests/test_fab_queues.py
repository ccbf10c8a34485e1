"""The simulator against queueing theory: systems whose means are known exactly.

Each system is simulated in independent replications, and the closed form must lie in the t-interval
of their means. The intervals are of 99.9 %, so that a right simulator fails one of the dozen
figures here once in about a hundred choices of seed; the seed is fixed.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from envs.fab import figures, library, rules, simulate

# Unlike other tests these run much and compile little.
optimized = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 1})


@functools.cache
def simulate_queue(
    name: str, rule: str, customers: int, replications: int = 32, seed: int = 0
) -> tuple[Any, dict[str, np.ndarray]]:
    """Figures of replications that together serve about `customers`, after a fifth to warm up."""
    plan = library.load(name)
    instance = jax.tree.map(jnp.asarray, plan.instance)
    rate = 1.0
    if hasattr(plan.instance.releases, "between"):
        rate = float(np.sum(1 / plan.instance.releases.between.mean)) * plan.ticks
    end = round(1.25 * customers / replications / rate * plan.ticks)
    window = figures.Window(jnp.int32(end // 5), jnp.int32(end))
    parsed = rules.parse(rule)

    @optimized
    def run(keys: jax.Array) -> Any:
        return simulate.run(instance, parsed, simulate.start(instance, keys, window))

    state = run(jax.random.split(jax.random.key(seed), replications))
    assert not state.late.any()
    return plan, figures.measure(plan, state)


def assert_mean(values: np.ndarray, expected: float, confidence: float = 0.999) -> None:
    half = stats.t.ppf(0.5 + confidence / 2, len(values) - 1) * stats.sem(values)
    assert abs(values.mean() - expected) <= half, (values.mean(), half, expected)
    # An interval that holds anything says nothing.
    assert half <= 0.12 * expected, (half, expected)


def erlang_c(servers: int, load: float) -> float:
    """The probability of waiting in M/M/c, `load` in servers."""
    full = load**servers / math.factorial(servers) * servers / (servers - load)
    return full / (sum(load**k / math.factorial(k) for k in range(servers)) + full)


def mean_value_analysis(
    work: tuple[float, ...], servers: tuple[int, ...], lots: int
) -> tuple[float, float]:
    """Throughput and cycle time of a closed exponential network (Reiser, Lavenberg 1980)."""
    stations = range(len(work))
    # marginal[i][j]: the probability of j lots at station i, one lot fewer in the network.
    marginal = [[1.0] + [0.0] * (servers[i] - 1) for i in stations]
    queue = [0.0] * len(work)
    for n in range(1, lots + 1):
        stay = []
        for i in stations:
            m = servers[i]
            idle = sum((m - 1 - j) * marginal[i][j] for j in range(m - 1))
            stay.append(work[i] / m * (1 + queue[i] + idle))
        throughput = n / sum(stay)
        queue = [throughput * s for s in stay]
        for i in stations:
            m, use = servers[i], throughput * work[i]
            new = [0.0] * m
            for j in range(1, m):
                new[j] = use / j * marginal[i][j - 1]
            new[0] = 1 - (use + sum((m - j) * new[j] for j in range(1, m))) / m
            marginal[i] = new
    return throughput, lots / throughput


POLLACZEK = lambda load, cv: load / (1 - load) * (1 + cv * cv) / 2  # noqa: E731

# Mean time in the system, in mean services.
OPEN = {
    "M/M/1": 1 / (1 - 0.8),
    "M/M/3": erlang_c(3, 2.4) / (3 - 2.4) + 1,
    "M/D/1": POLLACZEK(0.8, 0.0) + 1,
    "M/G/1": POLLACZEK(0.9, 0.5) + 1,
    "re-entrant": (1.5 + 1.5) / 0.3,
}


@pytest.mark.parametrize("name", ["M/M/1", "M/M/3", "M/D/1"])
def test_time_in_open_queues(name: str) -> None:
    _, found = simulate_queue(name, "FIFO", 170_000)
    assert_mean(found["cycle_time"], OPEN[name])


def test_little_and_utilisation() -> None:
    _, found = simulate_queue("M/M/1", "FIFO", 170_000)
    assert_mean(found["wip"], 4.0)
    assert_mean(found["processing"][:, 0], 0.8)


def test_priority_classes() -> None:
    """Cobham's formula for two classes that do not interrupt each other."""
    plan, found = simulate_queue("two-classes", "weight > FIFO", 170_000)
    residual = 0.8
    waits = {"urgent": residual / (1 - 0.3), "customer": residual / (1 - 0.3) / (1 - 0.8)}
    for product, wait in waits.items():
        column = found["product_cycle_time"][:, plan.products.index(product)]
        assert_mean(column, wait + 1)


def test_breakdowns_by_busy_time() -> None:
    """Exponential service of mean 1 that fails every 50 of work for 5: a service of mean 1.1."""
    _, found = simulate_queue("breakdowns", "FIFO", 170_000)
    mean, cv2 = 1.1, 1.826446280991736
    load = 0.6 * mean
    assert_mean(found["cycle_time"], load / (1 - load) * (1 + cv2) / 2 * mean + mean)
    assert_mean(found["down"][:, 0], 0.6 * 5 / 50)


@pytest.mark.parametrize("name", ["closed", "closed-multi-server"])
def test_closed_networks(name: str) -> None:
    work, servers, lots = {
        "closed": ((1, 0.9, 0.8, 0.5), (1, 1, 1, 1), 10),
        "closed-multi-server": ((4, 2.7, 1.5, 3), (4, 3, 1, 3), 20),
    }[name]
    throughput, cycle_time = mean_value_analysis(work, servers, lots)
    plan, found = simulate_queue(name, "FIFO", 200_000)
    assert_mean(found["cycle_time"], cycle_time)
    assert_mean(found["lots_per_day"] * plan.seconds * plan.ticks / 86400, throughput)
    np.testing.assert_allclose(found["wip"], lots, rtol=1e-12)


def test_lu_kumar() -> None:
    """Bad priorities fill a fab whose stations have a load of 0.7; buffer priorities do not.

    Steps 4 and 2 first starves each station in turn (Lu, Kumar 1991): what is in the fab grows in
    proportion to time. Which step a lot is at tells the four apart by the operations left.
    """

    def bad(queue: Any) -> jax.Array:
        return jnp.where((queue.left == 1) | (queue.left == 3), 0, 1)

    plan = library.load("lu-kumar")
    instance = jax.tree.map(jnp.asarray, plan.instance)

    def work_in_process(rule: Any, *counts: int) -> list[float]:
        """Means from a half of each of the `counts` of customers to all of them."""

        @optimized
        def run(keys: jax.Array, window: Any) -> Any:
            return simulate.run(instance, rule, simulate.start(instance, keys, window))

        keys, found = jax.random.split(jax.random.key(1), 2), []
        for customers in counts:
            window = figures.Window(jnp.int32(customers * 500), jnp.int32(customers * 1000))
            state = run(keys, window)
            assert not state.late.any()
            found.append(float(figures.measure(plan, state)["wip"].mean()))
        return found

    unstable = rules.Rule(bad, rules.fifo)
    early, late = work_in_process(unstable, 500, 2_000)
    assert late > 2 * early
    assert late > 100
    for name in ("FBFS", "LBFS"):
        [stable] = work_in_process(rules.parse(name), 2_000)
        assert stable < 20


@pytest.mark.slow
@pytest.mark.parametrize("name", OPEN)
def test_time_in_open_queues_of_a_million(name: str) -> None:
    _, found = simulate_queue(name, "FIFO", 1_500_000, seed=1)
    assert_mean(found["cycle_time"], OPEN[name], 0.99)
    assert found["finished"].sum() >= 1_000_000
