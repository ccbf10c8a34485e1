"""Result files whose parts are measured one by one, each with its own stamp."""

import argparse
import json
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import jax

from rlax_lab import provenance
from rlax_lab.checkpoint import write_json

RESULTS = Path(__file__).parent / "results"


def parser(about: str | None, kind: str, known: Collection[str]) -> argparse.ArgumentParser:
    """For a command that measures parts: which (`names`), --missing, --tiny and --out.

    Args:
      about: the module's text, of which the first line is shown.
      kind: what a part is called.
      known: all that there are.
    """

    def name(text: str) -> str:
        if text not in known:
            raise argparse.ArgumentTypeError(
                f"there is no {kind} {text!r}; there are {', '.join(known)}."
            )
        return text

    found = argparse.ArgumentParser(description=str(about).splitlines()[0])
    found.add_argument(
        "names", nargs="*", type=name, metavar=kind.upper(), help=f"of {', '.join(known)}"
    )
    found.add_argument("--missing", action="store_true", help="leave out what the file has")
    found.add_argument("--tiny", action="store_true", help="little work, to see that it runs")
    found.add_argument("--out", type=Path, default=RESULTS, help="folder of the result file")
    return found


def add_peers(parser: argparse.ArgumentParser) -> None:
    """--rounds, --peers and --purejaxrl, for measuring beside others in turns."""
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peers", help="a Python that has the peers (make bench makes one)")
    parser.add_argument("--purejaxrl", type=Path, help="a checkout of it, run with that Python")


def wanted(asked: argparse.Namespace, known: Collection[str], path: Path) -> Iterator[str]:
    """The parts to measure, one by one: those asked for or all, or those that `path` lacks."""
    for name in asked.names or known:
        if not (asked.missing and made(path, name)):
            yield name


def path(folder: Path, name: str) -> Path:
    """``name.json`` in a folder, and elsewhere than on a CPU ``name_gpu.json`` or the like."""
    folder.mkdir(parents=True, exist_ok=True)
    platform = jax.default_backend()
    return folder / f"{name}{'' if platform == 'cpu' else '_' + platform}.json"


def read(path: Path) -> dict[str, Any]:
    """All parts; none where there is no file."""
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return found


def keep(path: Path, name: str, found: dict[str, Any]) -> None:
    """Puts a part into the file, stamped, in the place of an older one."""
    write_json(path, read(path) | {name: found | provenance.stamp()})


def made(path: Path, name: str) -> bool:
    """Whether the file has this part, made by this commit on hardware like this."""
    stamp = provenance.stamp()
    part = read(path).get(name, {})
    return all(part.get(key) == stamp[key] for key in ("commit", "hardware"))
