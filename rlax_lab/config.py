"""Typed, frozen configurations whose numbers can be vmapped over.

A configuration is a frozen dataclass and a pytree at once: every ``float`` field is a leaf, so
``jax.vmap`` and ``jax.jit`` take it as an argument and a new value needs no recompilation; every
other field (sizes, switches, names) is static.
"""

import dataclasses
import math
import types
import typing
from collections.abc import Sequence
from typing import Any, TypeVar, dataclass_transform

import jax
import numpy as np

from rlax_lab.errors import InputError, nearest

T = TypeVar("T")


def setting(
    default: Any,
    text: str,
    *,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    choices: Sequence[str] = (),
) -> Any:
    """A configuration field.

    Args:
      default: its default.
      text: what it is, its unit, and where the default comes from; shown by ``--help``.
      low, high: inclusive bounds.
      above: an exclusive lower bound.
      choices: the allowed names of a text field; any text where there are none.
    """
    metadata = {"text": text, "low": low, "high": high, "above": above, "choices": choices}
    return dataclasses.field(default=default, metadata=metadata)


@dataclass_transform(frozen_default=True, kw_only_default=True)
def configuration(cls: type[T]) -> type[T]:
    """Makes `cls` a frozen keyword-only dataclass whose float fields are pytree leaves."""
    cls = dataclasses.dataclass(frozen=True, kw_only=True)(cls)
    hints = typing.get_type_hints(cls)
    is_leaf = {f.name: float in kinds(hints[f.name]) for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    return jax.tree_util.register_dataclass(
        cls,
        data_fields=[name for name, leaf in is_leaf.items() if leaf],
        meta_fields=[name for name, leaf in is_leaf.items() if not leaf],
    )


def kinds(hint: Any) -> tuple[Any, ...]:
    """The alternatives of a type hint: ``float | None`` gives ``(float, NoneType)``."""
    return typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)


def check(config: Any) -> None:
    """Raises InputError, in one sentence, on the first field outside its type or bounds.

    Traced leaves cannot be looked at and pass; arrays of hyperparameters are checked whole.
    """
    hints = typing.get_type_hints(type(config))
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if not isinstance(value, jax.core.Tracer):
            _check_field(field, kinds(hints[field.name]), value)


def _check_field(field: dataclasses.Field[Any], allowed: tuple[Any, ...], value: Any) -> None:
    name, bounds = field.name, field.metadata
    if value is None and types.NoneType in allowed:
        return
    if bool in allowed:
        if not isinstance(value, bool):
            raise InputError(f"{name} is {value!r}, but must be true or false.")
    elif str in allowed and not bounds["choices"]:
        if not isinstance(value, str):
            raise InputError(f"{name} is {value!r}, but must be a text.")
    elif str in allowed:
        if value not in bounds["choices"]:
            names = ", ".join(bounds["choices"])
            hint = nearest(str(value), bounds["choices"])
            raise InputError(f"{name} is {value!r}, but must be one of {names}{hint or '.'}")
    elif typing.get_origin(allowed[0]) is tuple:
        if not (isinstance(value, tuple) and all(type(v) is int and v > 0 for v in value)):
            raise InputError(f"{name} is {value!r}, but must be whole numbers above 0.")
    else:
        whole = int in allowed
        numbers = np.asarray(value)
        right_kind = numbers.dtype.kind in ("iu" if whole else "iuf") and not (
            whole and numbers.ndim
        )
        if not (right_kind and np.all(np.isfinite(numbers)) and _within(numbers, bounds)):
            kind = "a whole number" if whole else "a finite number"
            raise InputError(f"{name} is {value!r}, but must be {kind}{_range_text(bounds)}.")


def _within(x: np.ndarray, bounds: Any) -> bool:
    low, high, above = bounds["low"], bounds["high"], bounds["above"]
    return bool(
        np.all(x >= (-math.inf if low is None else low))
        and np.all(x <= (math.inf if high is None else high))
        and np.all(x > (-math.inf if above is None else above))
    )


def _range_text(bounds: Any) -> str:
    parts = [
        f"{word} {bounds[key]}"
        for key, word in (("above", "above"), ("low", "at least"), ("high", "at most"))
        if bounds[key] is not None
    ]
    return f" {' and '.join(parts)}" if parts else ""


def to_json(config: Any) -> dict[str, Any]:
    """The fields of `config` as plain JSON values."""
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in ((f.name, getattr(config, f.name)) for f in dataclasses.fields(config))
    }


def from_json(cls: type[T], values: dict[str, Any]) -> T:
    """The configuration that `to_json` wrote.

    Raises:
      InputError: on a field that `cls` does not have.
    """
    names = [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]
    for name in values:
        if name not in names:
            hint = nearest(name, names) or "."
            raise InputError(f"{name} is not a field of the configuration{hint}")
    return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})
