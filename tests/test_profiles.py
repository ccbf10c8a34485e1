"""Scores over several tasks, against rliable, and their scale, against random play."""

import gymnax
import jax
import numpy as np
import pytest
import rliable.metrics

from benchmarks import curves, profiles
from rlax_lab import vector


def test_the_scale_ends_at_the_best_published_run():
    suite = curves.load()
    for task, (random, best) in profiles.SCALE.items():
        np.testing.assert_allclose(profiles.score(task, [random, best]), [0, 1])
        experiments = [suite.experiments[name] for name in suite.groups["classic"].experiments]
        runs = [row for e in experiments if e.env == task for row in e.published]
        assert best == max(row.value for row in runs if row.source.startswith("SB3 zoo"))


@pytest.mark.parametrize("task", profiles.SCALE)
def test_the_scale_begins_at_random_play(task):
    env, params = gymnax.make(task)
    episodes, steps = 256, 999

    def one_step(state, key):
        play, draw = jax.random.split(key)
        actions = jax.vmap(env.action_space(params).sample)(jax.random.split(draw, episodes))
        state, step = vector.step(env, params, state, actions, play)
        return state, (step.ended, step.episode_return)

    @jax.jit
    def run(key):
        state = vector.reset(env, params, key, episodes)
        return jax.lax.scan(one_step, state, jax.random.split(key, steps))[1]

    ended, returns = map(np.asarray, run(jax.random.key(0)))
    assert ended.any(axis=0).all()
    first = returns[ended.argmax(axis=0), np.arange(episodes)]
    low, _ = profiles.SCALE[task]
    assert abs(first.mean() - low) < 4 * first.std() / episodes**0.5 + 0.06


def test_rows_are_what_rliable_says():
    rng = np.random.default_rng(0)
    one, two = rng.normal(size=(10, 3)), rng.normal(0.3, size=(8, 3))
    (first, *mine), (second, *theirs) = profiles.rows(
        [profiles.Learner("one", one), profiles.Learner("two", two)]
    )
    assert (first, second, mine[-1]) == ("one", "two", "")
    for scores, cells in ((one, mine), (two, theirs)):
        expected = [
            rliable.metrics.aggregate_iqm(scores),
            rliable.metrics.aggregate_median(scores),
            rliable.metrics.aggregate_optimality_gap(scores),
        ]
        assert [float(cell.split()[0]) for cell in cells[:3]] == pytest.approx(expected, abs=6e-4)
    better = rliable.metrics.probability_of_improvement(two, one)
    assert float(theirs[-1].split()[0]) == pytest.approx(better, abs=6e-4)


def test_only_learners_with_every_task_are_together():
    _, tasks = next(iter(profiles.SETS.values()))
    returns = {(algo, task): [1.0, 2.0] for algo in ("ppo", "dqn") for task in tasks}
    [first] = profiles.collect(returns).values()
    assert [learner.name for learner in first] == ["ppo", "dqn"]
    assert first[0].scores.shape == (2, 3)


def test_the_committed_results_are_shown_together():
    suite = curves.load()
    sets = profiles.collect(curves.last_returns(suite, suite.groups["classic"]))
    for title, (algos, tasks) in profiles.SETS.items():
        assert tuple(learner.name for learner in sets[title]) == algos
        assert all(learner.scores.shape == (10, len(tasks)) for learner in sets[title])
