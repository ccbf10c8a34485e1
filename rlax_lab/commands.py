"""What the commands of `rlax-lab` share: flags, folders, runs that can be stopped, the machine."""

import argparse
import contextlib
import dataclasses
import math
import os
import shutil
import time
import types
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from rlax_lab import config as configs
from rlax_lab.errors import InputError, nearest


class Parser(argparse.ArgumentParser):
    """argparse, with every complaint an InputError of one sentence."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(allow_abbrev=False, formatter_class=_Formatter, **kwargs)

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message[:1].upper()}{message[1:]}; see {self.prog} --help.")

    def parse(self, words: Sequence[str]) -> argparse.Namespace:
        """Like `parse_args`, but names the nearest option to one that does not exist."""
        parsed, unknown = self.parse_known_args(words)
        if unknown:
            flags = [flag for action in self._actions for flag in action.option_strings]
            hint = nearest(unknown[0].split("=")[0], flags) or f"; see {self.prog} --help."
            raise InputError(f"there is no option {unknown[0]!r}{hint}")
        return parsed


class _Formatter(argparse.HelpFormatter):
    def __init__(self, prog: str) -> None:
        width = min(100, shutil.get_terminal_size((100, 24)).columns)
        super().__init__(prog, max_help_position=32, width=width)


_UNSET: Any = object()


def given(parsed: argparse.Namespace) -> dict[str, Any]:
    """The flags that were said, of those whose defaults are a configuration's."""
    return {name: value for name, value in vars(parsed).items() if value is not _UNSET}


def add_folder(parser: Parser) -> None:
    """The flags of a run's folder."""
    parser.add_argument(
        "--out", type=Path, help="the run's folder (default: a new one under runs/)"
    )
    parser.add_argument(
        "--resume", action="store_true", help="go on with the run in --out where it stopped"
    )


def new_folder(kind: str, name: str) -> Path:
    """Where a run without --out goes."""
    return Path("runs") / f"{kind}_{name}_{time.strftime('%Y%m%d-%H%M%S')}"


def add_settings(group: Any, cls: type) -> None:
    """One flag per field of a configuration, with its meaning, default and source."""
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        flag = "--" + field.name.replace("_", "-")
        kinds = configs.kinds(hints[field.name])
        default = "none" if field.default is None else text(field.default)
        choices = field.metadata["choices"]
        extra = f"; one of {', '.join(choices)}" if choices else ""
        help_ = f"{field.metadata['text']}{extra} (default {default})".replace("%", "%%")
        if bool in kinds:
            action = argparse.BooleanOptionalAction
            group.add_argument(flag, action=action, default=_UNSET, help=help_)
        else:
            metavar = "N" if int in kinds else "X" if float in kinds else "NAME"
            convert = _converter(kinds)
            group.add_argument(flag, type=convert, default=_UNSET, metavar=metavar, help=help_)


def text(value: Any) -> str:
    """A field's value as its flag takes it."""
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _converter(kinds: tuple[Any, ...]) -> Any:
    """Text to a field's value; text that does not fit stays text, for `config.check` to refuse."""

    def convert(text: str) -> Any:
        if types.NoneType in kinds and text.lower() == "none":
            return None
        try:
            if int in kinds:
                return int(text) if text.lstrip("+-").isdecimal() else _whole(float(text))
            if float in kinds:
                return float(text)
            if typing.get_origin(kinds[0]) is tuple:
                return tuple(int(part) for part in text.split(","))
        except (ValueError, OverflowError):
            pass
        return text

    return convert


def _whole(x: float) -> Any:
    """1e6 as 1000000; 0.5 as it is."""
    return int(x) if x == int(x) else x


def build(cls: type, given: dict[str, Any]) -> Any:
    """A configuration of what was given and, for the rest, its defaults; checked."""
    names = [field.name for field in dataclasses.fields(cls)]
    config = cls(**{name: given[name] for name in names if name in given})
    configs.check(config)
    return config


def build_settings(cls: type, given: dict[str, Any]) -> Any:
    """`build`, with one part for each of the devices that seeds do not fill."""
    settings = build(cls, given)
    if settings.devices is None or "parts" in given:
        return settings
    parts = settings.devices // math.gcd(settings.devices, settings.seeds)
    return dataclasses.replace(settings, parts=parts)


def resumed(
    parsed: argparse.Namespace,
    given: dict[str, Any],
    read_record: Callable[[Path], dict[str, Any]],
) -> dict[str, Any]:
    """What was given and, with --resume, the rest of what the run was started with.

    Raises:
      InputError: where there is no run to resume.
    """
    if not parsed.resume:
        return given
    if parsed.out is None:
        raise InputError("--resume needs --out, the folder of the run to resume.")
    # What is said again must agree with the run, which `runs.run` sees to.
    record = read_record(parsed.out)
    recorded = {**record, **record["config"]}
    said = {name: value for name, value in given.items() if value is not None or name != "env"}
    return {k: tuple(v) if isinstance(v, list) else v for k, v in recorded.items()} | said


def run(task: Any, settings: Any, folder: Path, resume: bool) -> int:
    """`runs.run`; returns the exit code."""
    from rlax_lab import runs

    return until_stopped(lambda: runs.run(task, settings, folder, resume), folder)


def until_stopped(run: Callable[[], Any], folder: Path) -> int:
    """Runs what lives in `folder`, and says how to go on where it was stopped; the exit code."""
    from rlax_lab import progress, runs

    try:
        run()
    except runs.Stopped as stopped:
        signal, steps = stopped.args
        progress.say(
            f"Stopped at {steps} steps and saved; the same command with --out {folder} --resume "
            "goes on from there."
        )
        return 128 + int(signal)
    return 0


def use_all_cores() -> None:
    """Makes each core of a CPU a device, for programs that deal themselves out to the devices.

    Before JAX is used, which importing gymnax does.
    """
    import jax

    options: Any = jax.config
    if "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", ""):
        return
    with contextlib.suppress(RuntimeError):  # JAX is in use already
        options.update("jax_num_cpu_devices", os.cpu_count() or 1)


def use_compilation_cache() -> None:
    """Programs that were compiled once start at once the next time."""
    import jax

    options: Any = jax.config
    if options.jax_compilation_cache_dir is None:
        home = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
        options.update("jax_compilation_cache_dir", str(home / "rlax_lab" / "xla"))
