"""The `envs` package, which lies beside this one."""

import functools
import importlib.util
import sys
from pathlib import Path
from typing import Any


def ours(module: str) -> Any:
    """A module of our `envs` package, by its name there, such as ``fab.rules``.

    That lies beside this package, and is loaded from there under a name of its own, unless it has
    been imported as `envs` already: a user's own repository often has a folder called `envs`, which
    `import envs` would find instead.
    """
    return importlib.import_module(f"{_package()}.{module}")


@functools.cache
def _package() -> str:
    """The name of our `envs` package, loaded; always the same, as what two copies made of one class
    would not be of one class."""
    path = Path(__file__).resolve().parent.parent / "envs" / "__init__.py"
    imported = getattr(sys.modules.get("envs"), "__file__", None)
    if imported is not None and Path(imported).resolve() == path:
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
