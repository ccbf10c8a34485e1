"""What goes wrong, in one sentence a user can act on."""

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Input that cannot be used. The message is one sentence: the value, what is allowed."""


class NonFiniteError(RuntimeError):
    """Training produced a NaN or an infinity. The message names the update and the seed."""


def nearest(value: str, options: Iterable[str]) -> str:
    """A clause ``; did you mean 'x'?`` for the option closest to `value`, or nothing."""
    folded = {option.lower(): option for option in options}
    match = difflib.get_close_matches(value.lower(), folded, n=1, cutoff=0.5)
    return f"; did you mean '{folded[match[0]]}'?" if match else ""
