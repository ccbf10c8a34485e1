"""The README's code runs as it is written."""

import re
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"


def test_code_blocks_run_in_order():
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert len(blocks) >= 5
    names: dict = {}
    for block in blocks:
        exec(compile(block, str(README), "exec"), names)
    assert names["returns"].gae is not None
    assert names["action"].shape == (64,)
    assert names["loss"].shape == ()


def test_corridor_is_learnt():
    """The environment of the README is one that the learner of the README solves."""
    import jax

    names: dict = {}
    for block in re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)[:3]:
        exec(compile(block, str(README), "exec"), names)
    learner = names["corridor"]
    run = jax.jit(lambda s: jax.lax.scan(lambda s, _: learner.update(s), s, length=20)[1])
    metrics = run(learner.init(jax.random.key(0)))
    assert metrics["episode_length"][-1] / metrics["episodes"][-1] < 7
