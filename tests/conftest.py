"""All tests run with rank promotion forbidden, and reuse what earlier runs compiled."""

import gc
import os
from collections.abc import Iterator

# Tests compile much and run little: without LLVM's optimisations they take a fifth of the time, and
# with XLA's older emitters of fused operations three fifths of that; not to split programs up for
# compiling in parallel saves a twentieth of large ones. Must be set before jax starts.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false "
    "--xla_cpu_parallel_codegen_split_count=1",
)

import hypothesis
import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")

# Tracing makes many objects that stay. To look for garbage among them took a fifteenth of the time.
gc.set_threshold(100_000)

# Derandomised: a failure is a failure on every machine and in every run.
hypothesis.settings.register_profile(
    "tests", deadline=None, derandomize=True, max_examples=50, print_blob=True
)
hypothesis.settings.load_profile("tests")


def pytest_configure(config: pytest.Config) -> None:
    """Keeps compiled functions in pytest's own cache (``pytest --cache-clear`` empties it)."""
    if not hasattr(config, "cache"):
        return
    jax.config.update("jax_compilation_cache_dir", str(config.cache.mkdir("xla")))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    # An entry that another process is still writing is compiled anew.
    config.addinivalue_line(
        "filterwarnings", "ignore:Error (reading|writing) persistent compilation cache entry"
    )


@pytest.fixture(autouse=True, scope="module")
def _forget_what_was_compiled() -> Iterator[None]:
    """Every compiled function holds memory maps; a process that has 65,530 of them crashes."""
    yield
    jax.clear_caches()
