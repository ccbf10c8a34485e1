"""The command line of the wafer fabs."""

from collections.abc import Callable
from pathlib import Path

from rlax_lab import fab_describe, fab_simulate
from rlax_lab.errors import InputError, nearest
from rlax_lab.fab_commands import COMMANDS, parser_of


def command(words: list[str]) -> int:
    """Runs one command; returns the exit code.

    Raises:
      InputError: on bad input.
    """
    name = words[0] if words else "--help"
    if name in ("-h", "--help"):
        print("usage: rlax-lab fab COMMAND ...\n\ncommands:")
        print("\n".join(f"  {command:10} {text}" for command, text in COMMANDS.items()))
        print("\nrlax-lab fab COMMAND --help says more.")
        return 0
    if name not in COMMANDS:
        hint = nearest(name, COMMANDS) or f"; the commands are {', '.join(COMMANDS)}."
        raise InputError(f"there is no command 'fab {name}'{hint}")
    run: dict[str, Callable[[list[str]], int | None]] = {
        "list": fab_describe.list_fabs,
        "describe": fab_describe.describe,
        "rules": fab_describe.list_rules,
        "run": fab_simulate.run,
        "compare": fab_simulate.compare,
        "evaluate": _evaluate,
        "pool": _pool,
        "train": _train,
        "evolve": _evolve,
        "value": _value,
        "export": _export,
    }
    return run[name](words[1:]) or 0


def _evaluate(words: list[str]) -> None:
    from rlax_lab import fab_evaluate

    fab_evaluate.command(words)


def _pool(words: list[str]) -> None:
    from rlax_lab import fab_evaluate

    fab_evaluate.pool(words)


def _value(words: list[str]) -> None:
    from rlax_lab import fab_value

    fab_value.command(words)


def _export(words: list[str]) -> None:
    from rlax_lab import fab_train

    parser = parser_of("export")
    parser.add_argument("run", type=Path, help="the folder of a `fab train` or `fab evolve` run")
    parser.add_argument("--out", type=Path, required=True, help="a new folder")
    parsed = parser.parse(words)
    fab_train.export(parsed.run, parsed.out)
    print(parsed.out)


def _train(words: list[str]) -> int:
    from rlax_lab import fab_train

    return fab_train.command(words)


def _evolve(words: list[str]) -> int:
    from rlax_lab import fab_train

    return fab_train.command(words, fab_train.EVOLUTION)
