"""The README's code runs as it is written."""

import re
from pathlib import Path

import jax
import pytest

README = Path(__file__).parents[1] / "README.md"


@pytest.fixture(scope="module")
def names():
    """What the README's code blocks define, run in order."""
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert len(blocks) >= 5
    names: dict = {}
    for block in blocks:
        exec(compile(block, str(README), "exec"), names)
    return names


def test_code_blocks_run_in_order(names):
    assert names["returns"].gae is not None
    assert names["action"].shape == (64,)
    assert names["loss"].shape == ()


def test_corridor_is_learnt(names):
    """The environment of the README is one that the learner of the README solves."""
    learner = names["corridor"]
    run = jax.jit(lambda s: jax.lax.scan(lambda s, _: learner.update(s), s, length=20)[1])
    metrics = run(learner.init(jax.random.key(0)))
    assert metrics["episode_length"][-1] / metrics["episodes"][-1] < 7
