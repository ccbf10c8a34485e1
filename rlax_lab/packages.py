"""The `envs` package, which lies beside this one."""

import functools
import importlib.util
import sys
from pathlib import Path
from typing import Any

# See `set_apart`.
_apart = False


def ours(module: str) -> Any:
    """A module of our `envs` package, by its name there, such as ``fab.rules``.

    That lies beside this package. It is the one that ``import envs`` gives, unless that would find
    another, as a user's own repository often has a folder called `envs`; then, and after
    `set_apart`, it is loaded under a name of its own.
    """
    return importlib.import_module(f"{_package()}.{module}")


def set_apart() -> None:
    """Has `ours` leave the name `envs` to a user's package, which an import may find only later; no
    effect where ours has the name already."""
    global _apart
    _apart = True


@functools.cache
def _package() -> str:
    """The name of our `envs` package, loaded; always the same, as what two copies made of one class
    would not be of one class."""
    path = Path(__file__).resolve().parent.parent / "envs" / "__init__.py"
    if "envs" in sys.modules:
        found = getattr(sys.modules["envs"], "__file__", None)
    else:
        found = None if _apart else getattr(importlib.util.find_spec("envs"), "origin", None)
    if found is not None and Path(found).resolve() == path:
        return "envs"
    name = "rlax_lab_envs"
    spec = importlib.util.spec_from_file_location(
        name, path, submodule_search_locations=[str(path.parent)]
    )
    assert spec is not None
    assert spec.loader is not None
    package = importlib.util.module_from_spec(spec)
    sys.modules[name] = package
    spec.loader.exec_module(package)
    return name
