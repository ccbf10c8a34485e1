"""Dispatching rules: which of the lots that wait at a tool group goes next.

A rule ranks lots by a key, smaller first, or by several keys in turn; lots that tie go in the order
of their release. A new one takes three lines::

    def least_slack_per_weight(queue):
        return queue.slack / queue.weight

    rule = Rule(least_slack_per_weight)

A key sees the lots of the fab as columns ``[N]`` of a `Queue`, of which only those that wait at a
group that dispatches count. Times are ticks, and int32 where they can be exact.
"""

import dataclasses
import difflib
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from .queue import Queue, best

# None where it tells no lots apart.
Key = Callable[[Queue], jax.Array | None]


@dataclasses.dataclass(frozen=True)
class Batching:
    """Which batch families may start, and which goes first.

    Attributes:
      complete_first: the family that fills the largest part of a batch goes first; otherwise the
        family of the lot that ranks first.
      at_least: the part of a full batch below which a family waits for more lots; what the
        instance demands holds anyway.
      patience: how long a batch that is not full waits for a lot that is on its way, see
        `Queue.awaits`; 0 for not at all.
    """

    complete_first: bool = True
    at_least: Any = 0.0
    patience: Any = 0.0


MOST_COMPLETE = Batching()


class Rule:
    """Keys to rank lots by, each deciding where those before it tie, and a policy for batches.

    Args:
      keys: functions of a `Queue`, each giving ``[N]`` numbers; smaller goes first, NaN last.
      batching: what to do at operations that take batches.
    """

    def __init__(self, *keys: Key, batching: Batching = MOST_COMPLETE) -> None:
        self.keys, self.batching = keys, batching
        self.looks_elsewhere = any(getattr(key, "looks_elsewhere", False) for key in keys)
        patience = batching.patience
        self.looks_ahead = not (isinstance(patience, int | float) and patience == 0)

    def rank(self, queue: Queue) -> tuple[jax.Array, ...]:
        """The keys ``[N]`` of each lot."""
        ranks = (key(queue) for key in self.keys)
        return tuple(rank for rank in ranks if rank is not None)

    def startable(self, queue: Queue) -> jax.Array:
        """``[N]`` bool: the lots that may start as far as batches are concerned."""
        able = queue.startable(self.batching.at_least)
        return able & ~queue.awaits(self.batching.patience) if self.looks_ahead else able

    def __call__(self, queue: Queue) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        """The lot that each group starts ``[G]``, N where it waits, and the keys of all."""
        keys = self.rank(queue)
        return best(queue, self._order(queue, keys), self.startable(queue)), keys

    def preference(self, queue: Queue, first: jax.Array, keys: tuple[jax.Array, ...]) -> jax.Array:
        """How little each lot ``[N]`` is behind the one that goes first at its group, float32.

        0 of that one, and of the others ``-log(1.1 + gap)``, where the gap is that of the last
        key, in the key's own unit; -10 of lots that an earlier key puts behind, and at least. Gaps
        of keys that are logarithms, as those of ATC, ATCS and BATCS, are what a policy can add to.

        Args:
          queue: the lots; those that cannot start mean nothing.
          first, keys: what the rule gave for them.
        """
        *earlier, last = self._order(queue, keys) or (queue.order,)
        slots = last.shape[0]
        leader = jnp.minimum(queue.of_group(first, slots), slots - 1)
        tied = jnp.ones(slots, bool)
        for key in earlier:
            tied = tied & (key == key[leader])
        gap = jnp.maximum((last - last[leader]).astype(jnp.float32), 0.0)
        behind = -jnp.log(1.1 + gap)
        behind = jnp.where(tied & ~jnp.isnan(behind), jnp.maximum(behind, -10.0), -10.0)
        return jnp.where(leader == jnp.arange(slots), 0.0, behind)

    def _order(self, queue: Queue, keys: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        """The keys that decide which lot goes first."""
        if queue.instance.batches is not None and self.batching.complete_first:
            return (-queue.fullness, *keys)
        return keys


# Keys.


def looks_elsewhere(key: Key) -> Key:
    """Marks a key that sees other groups' queues: it is asked for one dispatch at a time."""
    key.looks_elsewhere = True  # type: ignore[attr-defined]
    return key


def setup(queue: Queue) -> jax.Array | None:
    """The shortest setup first."""
    return None if queue.instance.setups is None else queue.setup


def weight(queue: Queue) -> jax.Array:
    """The largest weight first."""
    return -queue.weight


def fifo(queue: Queue) -> jax.Array:
    """First in, first out."""
    return queue.arrival


def lifo(queue: Queue) -> jax.Array:
    """Last in, first out."""
    return -queue.arrival


def spt(queue: Queue) -> jax.Array:
    """Shortest processing time."""
    return queue.work


def lpt(queue: Queue) -> jax.Array:
    """Longest processing time."""
    return -queue.work


def edd(queue: Queue) -> jax.Array:
    """Earliest due date."""
    return queue.due


def odd(queue: Queue) -> jax.Array:
    """Earliest due date of the operation."""
    return queue.operation_due


def cr(queue: Queue) -> jax.Array:
    """Critical ratio: time until due over work left."""
    return _ratio(queue.due - queue.now, queue.remaining)


def slack(queue: Queue) -> jax.Array:
    """Least slack."""
    return queue.slack


def slack_per_operation(queue: Queue) -> jax.Array:
    """Least slack per operation left, S/RO."""
    return _ratio(queue.slack, queue.left)


def lwkr(queue: Queue) -> jax.Array:
    """Least work remaining."""
    return queue.remaining


def mwkr(queue: Queue) -> jax.Array:
    """Most work remaining."""
    return -queue.remaining


def mopnr(queue: Queue) -> jax.Array:
    """Most operations remaining."""
    return -queue.left


def fdd_per_mwkr(queue: Queue) -> jax.Array:
    """Flow due date over most work remaining, FDD/MWKR (Sels, Gheysen, Vanhoucke 2012)."""
    return _ratio(queue.done, queue.remaining)


def wspt(queue: Queue) -> jax.Array:
    """Weighted shortest processing time."""
    return _ratio(queue.work, queue.weight)


def mod(queue: Queue) -> jax.Array:
    """Modified operation due date (Baker, Kanet 1983)."""
    return jnp.maximum(queue.operation_due, queue.now + queue.work)


def wmod(queue: Queue) -> jax.Array:
    """Weighted modified operation due date."""
    return _ratio(jnp.maximum(queue.operation_due - queue.now, queue.work), queue.weight)


def wmdd(queue: Queue) -> jax.Array:
    """Weighted modified due date (Kanet, Li 2004)."""
    return _ratio(jnp.maximum(queue.due - queue.now, queue.remaining), queue.weight)


def atc(k: Any = 2.0) -> Key:
    """Apparent tardiness cost (Vepsalainen, Morton 1987), with due dates of operations.

    Args:
      k: mean processing times of slack over which urgency falls by a factor e.
    """

    return lambda queue: _atc(queue, k)


def _atc(queue: Queue, k: Any) -> jax.Array:
    spare = jnp.maximum(queue.operation_due - queue.now - queue.work, 0)
    return _ratio(spare, k * queue.mean(queue.work)) - jnp.log(_ratio(queue.weight, queue.work))


def atcs(k1: Any = 2.0, k2: Any = 0.1) -> Key:
    """Apparent tardiness cost with setups (Lee, Bhaskaran, Pinedo 1997).

    Args:
      k1: as `atc`'s.
      k2: mean setups over which preference falls by a factor e.
    """

    return lambda queue: _atcs(queue, k1, k2)


def _atcs(queue: Queue, k1: Any, k2: Any) -> jax.Array:
    share = _ratio(queue.setup, k2 * queue.mean(queue.setup))
    return _atc(queue, k1) + jnp.where(queue.setup > 0, share, 0.0)


def batcs(k1: Any = 2.0, k2: Any = 0.1, power: Any = 1.0) -> Key:
    """Apparent tardiness cost with setups and batches (Mason, Fowler, Carlyle 2002).

    For rules that do not put the fullest batch first whatever else, as ``BATCS(2, 0.1) @ 0``.

    Args:
      k1, k2: as `atcs`'s.
      power: of the part of a full batch that waits, by which the index of `atcs` is multiplied.
    """
    return lambda queue: _atcs(queue, k1, k2) - power * jnp.log(queue.fullness)


def fbfs(queue: Queue) -> jax.Array:
    """First buffer first served."""
    return queue.behind


def lbfs(queue: Queue) -> jax.Array:
    """Last buffer first served."""
    return queue.left


def fluctuation_lateness(factor: Any = 2.0) -> Key:
    """Fluctuation smoothing of lateness, FSVL (Lu, Ramaswamy, Kumar 1994).

    Args:
      factor: flow factor by which the time a lot still needs is estimated from its work.
    """
    return lambda queue: queue.due - _times(factor, queue.remaining)


def fluctuation_cycle_time(factor: Any = 2.0) -> Key:
    """Fluctuation smoothing of the variance of cycle time, FSVCT (Lu, Ramaswamy, Kumar 1994).

    Args:
      factor: as `fluctuation_lateness`'s.
    """
    return lambda queue: queue.release - _times(factor, queue.remaining)


def fluctuation_mean(interval: Any, factor: Any = 2.0) -> Key:
    """Fluctuation smoothing of the mean cycle time, FSMCT (Lu, Ramaswamy, Kumar 1994).

    Args:
      interval: mean ticks between two releases.
      factor: as `fluctuation_lateness`'s.
    """
    return lambda queue: _times(interval, queue.order) - _times(factor, queue.remaining)


@looks_elsewhere
def pt_winq(queue: Queue) -> jax.Array:
    """Processing time plus work in the next queue (Holthaus, Rajendran 1997)."""
    return queue.work + queue.next_queue


def random(queue: Queue) -> jax.Array:
    """Any order, but the same for the same key."""
    return queue.random


def evolved16(ticks: Any = 10) -> Key:
    """The evolved rule of 16 nodes (Hildebrandt, Heger, Scholz-Reiter 2010).

    Args:
      ticks: in a minute, the unit in which the rule adds times to numbers of lots.
    """

    def evolved16_key(queue: Queue) -> jax.Array:
        terms = _Terms(queue, ticks)
        family = jnp.where(
            terms.remaining - jnp.maximum(1.0, terms.until_due) >= 0, terms.weight, terms.family
        )
        return terms.setup - terms.remaining / terms.slack - terms.family * family

    return evolved16_key


def evolved20(ticks: Any = 10) -> Key:
    """The evolved rule of 20 nodes (Hildebrandt, Heger, Scholz-Reiter 2010).

    Args:
      ticks: as `evolved16`'s.
    """

    def evolved20_key(queue: Queue) -> jax.Array:
        terms = _Terms(queue, ticks)
        urgency = terms.remaining / terms.slack
        family = jnp.where(
            jnp.maximum(1.0, terms.remaining) - jnp.maximum(urgency, terms.slack) >= 0,
            terms.weight,
            terms.family,
        )
        return terms.setup - urgency - terms.family * family

    return evolved20_key


class _Terms:
    """What the evolved rules are made of, in minutes and float32."""

    def __init__(self, queue: Queue, ticks: Any) -> None:
        self.weight = queue.weight.astype(jnp.float32)
        self.family = queue.batchable.astype(jnp.float32)
        self.remaining = _ratio(queue.remaining, ticks)
        self.slack = _ratio(queue.slack, ticks)
        self.setup = _ratio(queue.setup, ticks)
        self.until_due = _ratio(queue.due - queue.now, ticks)


def _ratio(x: Any, y: Any) -> jax.Array:
    return jnp.asarray(x, jnp.float32) / jnp.asarray(y, jnp.float32)


def _times(factor: Any, x: jax.Array) -> jax.Array:
    """Ticks times a factor, in whole ticks."""
    return jnp.round(factor * x.astype(jnp.float32)).astype(jnp.int32)


# Rules by name.

KEYS: dict[str, Key] = {
    "setup": setup,
    "weight": weight,
    "FIFO": fifo,
    "LIFO": lifo,
    "SPT": spt,
    "LPT": lpt,
    "EDD": edd,
    "ODD": odd,
    "CR": cr,
    "slack": slack,
    "S/RO": slack_per_operation,
    "LWKR": lwkr,
    "MWKR": mwkr,
    "MOPNR": mopnr,
    "FDD/MWKR": fdd_per_mwkr,
    "WSPT": wspt,
    "MOD": mod,
    "WMOD": wmod,
    "WMDD": wmdd,
    "FBFS": fbfs,
    "LBFS": lbfs,
    "PT+WINQ": pt_winq,
    "random": random,
}
# Keys with parameters.
FAMILIES: dict[str, Callable[..., Key]] = {
    "ATC": atc,
    "ATCS": atcs,
    "BATCS": batcs,
    "FSVL": fluctuation_lateness,
    "FSVCT": fluctuation_cycle_time,
    "FSMCT": fluctuation_mean,
    "evolved16": evolved16,
    "evolved20": evolved20,
}


class RuleError(ValueError):
    """A name that gives no rule. One sentence says why."""


def parse(name: str) -> Rule:
    """The rule of a name.

    ``EDD``; ``ATCS(4.5, 0.01)``, with parameters; ``setup > weight > FIFO``, keys in the order in
    which they decide. At operations that take batches the most complete family goes first;
    ``WMOD @ 0.625`` lets the best lot's family go first, once it fills that part of a batch. With
    ``EDD wait 1`` a batch that is not full waits for a lot on its way, see `Queue.awaits`.

    Raises:
      RuleError: where it names no rule.
    """
    words, part, patience = _parts(name)
    batching = MOST_COMPLETE
    if part is not None:
        at_least = _number(part)
        if not 0 <= at_least <= 1:
            raise RuleError(f"rule '{name}': the part of a batch must be a number from 0 to 1.")
        batching = Batching(complete_first=False, at_least=at_least)
    if patience is not None:
        times = _number(patience)
        if not 0 <= times < float("inf"):
            raise RuleError(f"rule '{name}': what follows 'wait' must be a number from 0 on.")
        batching = dataclasses.replace(batching, patience=times)
    return Rule(*(_key(word.strip(), name) for word in words.split(">")), batching=batching)


def _parts(name: str) -> tuple[str, str | None, str | None]:
    """Of a rule's name the keys, what follows @, and what follows ``wait``."""
    text, wait, patience = name.partition(" wait ")
    keys, at, part = text.partition("@")
    return keys.strip(), part if at else None, patience if wait else None


def _number(text: str) -> float:
    """NaN where it is none."""
    try:
        return float(text)
    except ValueError:
        return float("nan")


def _key(word: str, rule: str) -> Key:
    base, bracket, rest = word.partition("(")
    names = {known.casefold(): known for known in (*KEYS, *FAMILIES)}
    known = names.get(base.strip().casefold())
    if known is None:
        near = difflib.get_close_matches(base.strip().casefold(), names, n=1, cutoff=0.5)
        hint = (
            f"did you mean '{names[near[0]]}'?"
            if near
            else f"there are {', '.join(names.values())}."
        )
        raise RuleError(f"rule '{rule}': there is no key {base.strip()!r}; {hint}")
    if known in KEYS and not bracket:
        return KEYS[known]
    if known in KEYS:
        raise RuleError(f"rule '{rule}': {known} takes no parameters.")
    try:
        values = [float(x) for x in rest.rstrip(" )").split(",") if x.strip()]
        return FAMILIES[known](*values)
    except (TypeError, ValueError):
        allowed = ", ".join(inspect.signature(FAMILIES[known]).parameters)
        raise RuleError(f"rule '{rule}': {known} takes the numbers ({allowed}).") from None
