"""What the commands of `rlax-lab fab` share: fabs and rules by name, folders, tables."""

import math
from pathlib import Path
from typing import Any

import numpy as np

from rlax_lab import commands
from rlax_lab.errors import InputError
from rlax_lab.packages import ours

COMMANDS = {
    "list": "list the ready-made fabs",
    "describe": "say what a fab is made of",
    "rules": "list the dispatching rules",
    "run": "simulate a fab under a rule",
    "compare": "simulate a fab under several rules and the same random numbers",
    "evaluate": "simulate policies and rules on many fabs of a family",
    "pool": "make one evaluation of several, as from several machines",
    "train": "train a dispatching policy by multi-agent PPO",
    "evolve": "train one by evolution strategies",
    "value": "say what a policy is worth a year",
    "export": "write a trained policy as a folder of a few KB, which stands for its run",
}
INSTANCE = "a ready-made fab, a .toml or .json file, fab4r:FILE, or job-shop:NAME or FILE"
# How the names of policies begin where rules stand beside them.
POLICY = "policy "


def parser_of(name: str) -> Any:
    """A parser of the options of one of the `COMMANDS`."""
    text = COMMANDS[name]
    return commands.Parser(prog=f"rlax-lab fab {name}", description=f"{text[0].upper()}{text[1:]}.")


def load_fab(name: str, seed: int = 0) -> Any:
    """The fab of a name.

    Raises:
      InputError: where there is none.
    """
    try:
        return ours("fab.library").load(name, seed)
    except ours("fab.describe").FabError as error:
        raise InputError(sentence(error)) from error


def new_folder(kind: str, fab: str) -> Path:
    """Where a run on a fab goes if --out does not say; the fab's name may be a path."""
    safe = "".join(letter if letter.isalnum() else "-" for letter in fab)
    return commands.new_folder(kind, safe)


def sentence(error: Exception) -> str:
    """What an error says, as a sentence on one line."""
    text = " ".join(str(error).split())
    return text if text.endswith((".", "?", ")")) else f"{text}."


def split_rules(text: str) -> list[str]:
    """Names of rules, separated by commas outside brackets."""
    rules, depth = [""], 0
    for letter in text:
        depth += (letter == "(") - (letter == ")")
        if letter == "," and depth <= 0:
            rules.append("")
        else:
            rules[-1] += letter
    return [rule.strip() for rule in rules]


def interval(values: Any) -> tuple[float, float, float]:
    """Mean and 95 % t-interval over replications ``[B]``; NaN where they say nothing."""
    from scipy import special  # type: ignore[import-untyped]

    values = np.asarray(values, np.float64)
    mean = float(values.mean())
    if len(values) < 2 or not math.isfinite(mean):
        return mean, math.nan, math.nan
    half = special.stdtrit(len(values) - 1, 0.975) * values.std(ddof=1) / math.sqrt(len(values))
    return mean, mean - float(half), mean + float(half)


def many(number: int, what: str) -> str:
    """A number of things, such as "1 lot" or "2 lots"."""
    return f"{number} {what}{'s' * (number != 1)}"


def print_table(rows: list[dict[str, Any]]) -> None:
    """Rows as a table: text to the left, but numbers to the right."""
    columns = list(rows[0])
    cells = [[str(row[c]) for c in columns] for row in rows]
    widths = [max(len(line[i]) for line in [columns, *cells]) for i in range(len(columns))]
    right = [all(not isinstance(row[c], str) for row in rows) for c in columns]
    for line in [columns, *cells]:
        padded = (
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(line, widths, right, strict=True)
        )
        print("  ".join(padded).rstrip())
