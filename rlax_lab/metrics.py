"""What an update reports: sums and counts, which add up over updates without bias.

A mean of means would weigh an update in which one episode finished like one in which a thousand
did, and an episode that has not ended has no return yet.
"""

from typing import Any

import jax
import jax.numpy as jnp

from rlax_lab.vector import TimeStep

Metrics = dict[str, jax.Array]


def episodes(step: TimeStep) -> Metrics:
    """Number, total return and total length of the episodes that ended in `step` ``[...]``."""
    ended = step.ended
    return {
        "episodes": jnp.sum(ended, dtype=jnp.float32),
        "episode_return": jnp.sum(jnp.where(ended, step.episode_return, 0.0)),
        "episode_length": jnp.sum(jnp.where(ended, step.episode_length, 0), dtype=jnp.float32),
    }


def means(sums: dict[str, Any]) -> dict[str, float | None]:
    """Sums from one or more updates, of one seed, as means ready for JSON.

    ``episode_*`` are means over episodes that ended (None if none did), everything else means
    over gradient steps; ``episodes`` stays a count.
    """
    count, steps = float(sums["episodes"]), float(sums["gradient_steps"])
    result: dict[str, float | None] = {"episodes": count}
    for name, total in sums.items():
        if name.startswith("episode_"):
            result[name] = float(total) / count if count else None
        elif name not in ("episodes", "gradient_steps"):
            result[name] = float(total) / steps
    return result
