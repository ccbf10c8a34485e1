"""Signals are heard as they come, whatever the main thread does."""

import queue
import signal
import subprocess
import sys
import time

import pytest

from rlax_lab import signals

# Minutes in one program.
COMPUTING = """
import signal
import sys
import jax
import jax.numpy as jnp
from rlax_lab import signals

signal.signal(signal.SIGINT, signal.default_int_handler)  # the tests may run where it is ignored
compute = jax.jit(lambda n: jax.lax.fori_loop(0, n, lambda _, x: jnp.sin(x), jnp.ones(1000)))
compute(1)
with signals.ctrl_c_ends():
    print("begins", flush=True)
    try:
        compute(2**31 - 1).block_until_ready()
    except KeyboardInterrupt:
        sys.exit(130)
"""


@pytest.fixture
def handled():
    """What Python's own handler of SIGUSR1 was called with."""
    numbers = []
    before = signal.signal(signal.SIGUSR1, lambda number, _: numbers.append(number))
    yield numbers
    signal.signal(signal.SIGUSR1, before)


def test_a_thread_hears(handled):
    """The innermost context's, and Python's handler is called as ever."""
    outer, inner = queue.Queue(), queue.Queue()
    with signals.heard(outer.put):
        with signals.heard(inner.put):
            signal.raise_signal(signal.SIGUSR1)
            assert inner.get(timeout=60) == signal.SIGUSR1
        signal.raise_signal(signal.SIGUSR1)
        assert outer.get(timeout=60) == signal.SIGUSR1
    signal.raise_signal(signal.SIGUSR1)
    assert handled == [signal.SIGUSR1] * 3
    assert outer.empty()
    assert inner.empty()


def test_a_stop_is_asked_for():
    """It is announced, and handlers are afterwards as before."""
    before = signal.getsignal(signal.SIGTERM)
    announced = queue.Queue()
    with signals.stop_on_signals(lambda: announced.put("stopping")) as stop:
        assert stop.signal is None
        signal.raise_signal(signal.SIGTERM)
        assert stop.signal == signal.SIGTERM
        assert announced.get(timeout=60) == "stopping"
    assert signal.getsignal(signal.SIGTERM) is before
    assert announced.empty()


def test_ctrl_c_ends_a_computation():
    with subprocess.Popen(
        [sys.executable, "-c", COMPUTING], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "begins\n"
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        try:
            assert process.wait(timeout=60) == 128 + signal.SIGINT
        finally:
            process.kill()
