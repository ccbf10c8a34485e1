"""The `envs` package, which lies beside this one."""

import functools
import importlib.util
import sys
from pathlib import Path
from typing import Any

_PATH = Path(__file__).resolve().parent.parent / "envs" / "__init__.py"
_APART = "rlax_lab_envs"


def ours(module: str) -> Any:
    """A module of our `envs` package, by its name there, such as ``fab.rules``.

    That lies beside this package. It is the one that ``import envs`` gives, unless that would find
    another, as a user's own repository often has a folder called `envs`; then, and after
    `set_apart`, it is loaded under a name of its own.
    """
    return importlib.import_module(f"{_package()}.{module}")


def set_apart() -> None:
    """Leaves the name `envs` to a user's package, which is not to be found yet, as a command leaves
    it; where ours has it already, it stays so."""
    if _APART in sys.modules or _is_ours(getattr(sys.modules.get("envs"), "__file__", None)):
        return
    spec = importlib.util.spec_from_file_location(
        _APART, _PATH, submodule_search_locations=[str(_PATH.parent)]
    )
    assert spec is not None
    assert spec.loader is not None
    sys.modules[_APART] = package = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(package)


@functools.cache
def _package() -> str:
    """The name of our `envs` package; always the same, as what two copies made of one class would
    not be of one class."""
    if _APART in sys.modules:
        return _APART
    if "envs" in sys.modules:
        found = getattr(sys.modules["envs"], "__file__", None)
    else:
        found = getattr(importlib.util.find_spec("envs"), "origin", None)
    if _is_ours(found):
        return "envs"
    set_apart()
    return _APART


def _is_ours(file: str | None) -> bool:
    return file is not None and Path(file).resolve() == _PATH
