"""Exact checkpoints: the whole state of a run, in files that are known to be whole.

Arrays are written by orbax. A small ``checkpoint.json`` is put beside them last, with a digest of
the bytes that were saved: a checkpoint without it was never finished, and one whose bytes no
longer match it is damaged. Both are passed over for the one before.
"""

import hashlib
import json
import os
import shutil
import warnings
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from rlax_lab.errors import InputError
from rlax_lab.types import PyTree

KEEP = 3


def save(folder: Path, number: int, state: PyTree, notes: dict[str, Any]) -> None:
    """Writes checkpoint `number` of a run and drops all but the newest few.

    Of several processes all must call it; the first writes.

    Args:
      folder: holds one subfolder per checkpoint.
      number: counts updates; names the subfolder.
      state: any pytree of arrays, typed PRNG keys included.
      notes: JSON values to keep with it.
    """
    from orbax.checkpoint import v1 as ocp

    arrays = to_numpy(state)
    leads = jax.process_index() == 0
    target = folder.resolve() / f"{number:012d}"
    if leads:
        shutil.rmtree(target, ignore_errors=True)  # an unfinished one of a run that was killed
        target.mkdir(parents=True)
    ocp.save(target / "state", arrays)  # waits for all processes
    if not leads:
        return
    # Orbax's note of where it was written, which runs that are moved or shared need not tell.
    (target / "state" / "commit_success.txt").unlink(missing_ok=True)
    seal = {
        "form": form(arrays),
        "digest": digest(arrays),
        "files": _files(target / "state"),
        "notes": notes,
    }
    write_json(target / "checkpoint.json", seal)
    # Later ones were passed over when the run resumed.
    others = numbers(folder)
    kept = [n for n in others if n <= number][-KEEP:]
    for old in set(others) - set(kept):
        shutil.rmtree(folder / f"{old:012d}", ignore_errors=True)


def restore(folder: Path, example: PyTree | None = None) -> tuple[int, PyTree, dict[str, Any]]:
    """The newest whole checkpoint of a run: its number, state and notes.

    Args:
      folder: as given to `save`.
      example: a state of the same structure, shapes and types; arrays or their abstract shapes.
        Without, the state is made of dicts and lists of NumPy arrays, whatever their shapes.

    Raises:
      InputError: if there is none that is whole.
    """
    for number in reversed(numbers(folder)):
        path = folder.resolve() / f"{number:012d}"
        try:
            state, notes = _load(path, example)
        except InputError:
            raise
        except Exception as error:
            reason = " ".join(str(error).split())[:120]
            warnings.warn(
                f"checkpoint {path} is damaged ({reason}); falling back to the one before",
                stacklevel=2,
            )
        else:
            return number, state, notes
    raise InputError(f"{folder} holds no usable checkpoint.")


def numbers(folder: Path) -> list[int]:
    """The checkpoints in `folder`, finished or not, oldest first."""
    if not folder.is_dir():
        return []
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdecimal())


def _load(path: Path, example: PyTree | None) -> tuple[PyTree, dict[str, Any]]:
    from orbax.checkpoint import v1 as ocp

    seal = json.loads((path / "checkpoint.json").read_text())
    # Looked at before orbax does, whose threads print tracebacks when they meet damaged files.
    if _files(path / "state") != seal["files"]:
        raise ValueError("its files do not match their digests")
    if example is None:
        return ocp.load(path / "state"), seal["notes"]
    blank = jax.tree.map(_blank, example)
    if seal["form"] != form(blank):
        raise InputError(
            f"{path} holds a state of other shapes: the environment or the program has changed "
            "since it was saved."
        )
    arrays = ocp.load(path / "state", blank)
    # orbax casts silently where types differ; the digest covers types and shapes as well.
    if digest(arrays) != seal["digest"]:
        raise ValueError("its contents do not match its digest")
    return from_numpy(arrays, example), seal["notes"]


def to_numpy(tree: PyTree) -> PyTree:
    """`tree` on the host, typed keys as the integers behind them.

    Where several processes share the devices, all must ask for it.
    """

    def fetch(x: Any) -> np.ndarray:
        if _is_key(x):
            x = jax.random.key_data(x)
        if isinstance(x, jax.Array) and not x.is_fully_addressable:
            x = multihost_utils.process_allgather(x, tiled=True)
        return np.asarray(x)

    return jax.tree.map(fetch, tree)


def digest(arrays: PyTree) -> str:
    """SHA-256 of every array's path, type, shape and bytes."""
    sha = hashlib.sha256()
    for path, x in jax.tree_util.tree_leaves_with_path(arrays):
        sha.update(f"{jax.tree_util.keystr(path)} {x.dtype} {x.shape};".encode())
        # A view: a replay buffer is too large to copy.
        sha.update(np.ascontiguousarray(x).reshape(-1).view(np.uint8).data)
    return sha.hexdigest()


def _files(folder: Path) -> dict[str, str]:
    """SHA-256 of every file in a folder."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def form(arrays: PyTree) -> str:
    """SHA-256 of every array's path, type and shape."""
    named = jax.tree_util.tree_leaves_with_path(arrays)
    text = ";".join(f"{jax.tree_util.keystr(p)} {x.dtype} {x.shape}" for p, x in named)
    return hashlib.sha256(text.encode()).hexdigest()


def check_new(folder: Path) -> None:
    """Raises InputError where `folder` is neither new nor empty."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file; --out must be a folder.")
    try:
        others = list(folder.iterdir()) if folder.is_dir() else []
    except OSError as error:
        raise InputError(f"{folder} cannot be read: {error.strerror}.") from error
    if others:
        what = "another run" if (folder / "summary.json").exists() else "other files"
        raise InputError(f"{folder} holds {what}; give another --out.")


def write_json(path: Path, value: Any) -> None:
    """Writes `path` whole or not at all; of several processes, the first."""
    if jax.process_index() > 0:
        return
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(value, indent=2) + "\n")
    os.replace(partial, path)


def _is_key(x: Any) -> bool:
    return bool(jnp.issubdtype(x.dtype, jax.dtypes.prng_key))


def _blank(x: Any) -> np.ndarray:
    if _is_key(x):
        x = jax.eval_shape(jax.random.key_data, x)
    return np.zeros(x.shape, x.dtype)


def from_numpy(arrays: PyTree, example: PyTree) -> PyTree:
    """What `to_numpy` gave, as arrays and keys like those of `example`."""
    return jax.tree.map(_from_numpy, arrays, example)


def _from_numpy(x: np.ndarray, example: Any) -> jax.Array:
    if _is_key(example):
        impl: list[Any] = []  # only an array or a tracer tells its own
        jax.eval_shape(lambda key: impl.append(jax.random.key_impl(key)), example)
        return jax.random.wrap_key_data(jnp.asarray(x), impl=impl[0])
    return jnp.asarray(x)
