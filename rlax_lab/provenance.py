"""Where a result comes from: hardware, versions, commit."""

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

PACKAGES = ("rlax-lab", "jax", "jaxlib", "flax", "optax", "gymnax", "chex", "numpy")

# What `stamp` says.
FIELDS = ("hardware", "versions", "commit")


def stamp() -> dict[str, Any]:
    """Hardware, versions and commit, as JSON values."""
    device = jax.devices()[0]
    return {
        "hardware": {
            "platform": device.platform,
            "device": device.device_kind,
            "devices": jax.device_count(),
            "processor": _processor(),
            "cores": os.cpu_count(),
        },
        "versions": {"python": platform.python_version()}
        | {name: metadata.version(name) for name in PACKAGES if _installed(name)},
        "commit": _commit(),
    }


def _installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _commit() -> str | None:
    """The commit of the checkout this package runs from, marked if files differ from it.

    A copy that left git behind can be told it.
    """
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return os.environ.get("RLAX_LAB_COMMIT")

    def git(*words: str) -> str:
        done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True)
        return done.stdout.strip() if done.returncode == 0 else ""

    try:
        commit = git("rev-parse", "HEAD")
        # Results written a moment ago are no change to what made them.
        results = ":!benchmarks/results", ":!RESULTS.md"
        changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", *results)
    except OSError:
        return None
    return (commit + ("-modified" if changed else "")) or None
