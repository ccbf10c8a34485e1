"""Environments in gymnax's interface, and the names they go by. Knows no learner."""

from ._lazy import deferred

# gymnax imports these for its pictures, which training never draws: seconds of start-up.
with deferred("matplotlib.pyplot", "seaborn"):
    import gymnax  # noqa: F401
