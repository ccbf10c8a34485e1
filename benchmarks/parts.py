"""Result files whose parts are measured one by one, each with its own stamp."""

import json
from pathlib import Path
from typing import Any

import jax

from rlax_lab import provenance
from rlax_lab.checkpoint import write_json

RESULTS = Path(__file__).parent / "results"


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
