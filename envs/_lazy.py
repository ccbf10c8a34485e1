"""Imports that wait until something of the module is used."""

import contextlib
import importlib
import sys
import types
from collections.abc import Iterator
from typing import Any


class _StandIn(types.ModuleType):
    """Holds a module's place and imports it when one of its attributes is first asked for."""

    def __getattr__(self, attribute: str) -> Any:
        if sys.modules.get(self.__name__) is self:
            # Asked for while still in place: make way for the module itself.
            sys.modules.pop(self.__name__, None)
        return getattr(importlib.import_module(self.__name__), attribute)


@contextlib.contextmanager
def deferred(*names: str) -> Iterator[None]:
    """Whoever imports one of the modules `names` inside the block gets a stand-in for it.

    A stand-in passes every attribute on to the module, which it imports at the first. After the
    block ``sys.modules`` knows no stand-in, so later imports get the modules themselves; one that
    was imported before the block is left alone. A submodule that is imported inside the block is
    executed together with its package, maybe twice.
    """
    # Not importlib.util.LazyLoader: a second `import` of its lazy module already executes it.
    stand_ins = {name: _StandIn(name) for name in names if name not in sys.modules}
    sys.modules.update(stand_ins)
    try:
        yield
    finally:
        for name, stand_in in stand_ins.items():
            if sys.modules.get(name) is stand_in:
                del sys.modules[name]
