"""Ctrl-C and SIGTERM, heard as they come.

Python calls its own handlers between two steps of the main thread, which may be minutes in XLA. A
thread hears signals in the meantime.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# Seconds in which the main thread may end by itself.
_GRACE = 1.0


class StopRequest:
    """Whether, and by which signal, the user asked a run to stop."""

    signal: int | None = None


@contextmanager
def stop_on_signals(announce: Callable[[], None]) -> Iterator[StopRequest]:
    """Turns Ctrl-C and SIGTERM into a request to stop, which is announced at once.

    A second one ends the process, whatever it does.
    """
    request = StopRequest()
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.getsignal(number) for number in numbers]
    asked = False

    def handle(number: int, _: object) -> None:
        request.signal = number

    def hear(number: int) -> None:
        nonlocal asked
        if number in numbers:
            if asked:
                _end(number)
            asked = True
            announce()

    with heard(hear):
        for number in numbers:
            signal.signal(number, handle)
        try:
            yield request
        finally:
            for number, handler in zip(numbers, before, strict=True):
                signal.signal(number, handler)


@contextmanager
def ctrl_c_ends() -> Iterator[None]:
    """Ctrl-C ends the process soon, though it may be computing."""

    def hear(number: int) -> None:
        if number == signal.SIGINT:
            later = threading.Timer(_GRACE, _end, [number])
            later.daemon = True
            later.start()

    with heard(hear):
        yield


@contextmanager
def heard(hear: Callable[[int], None]) -> Iterator[None]:
    """A thread calls ``hear(number)`` for every signal that has a handler in Python, as it comes.

    Of several such contexts within each other the innermost hears. At its end all has been heard.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)

    def listen() -> None:
        while number := os.read(reader, 1):
            hear(number[0])
        os.close(reader)

    thread = threading.Thread(target=listen, daemon=True)
    thread.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.close(writer)
        thread.join()


def _end(number: int) -> None:
    """Ends the process as a signal would; a terminal shows its cursor again."""
    if sys.stdout.isatty():
        os.write(sys.stdout.fileno(), b"\x1b[?25h\n")
    os._exit(128 + number)
