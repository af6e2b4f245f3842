"""Signals to stop that wait until what is going on is saved."""

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn


@contextmanager
def stop_later() -> Iterator[Callable[[], int | None]]:
    """Hold back the first SIGINT or SIGTERM; a second one stops at once.

    Yields:
      a function that says which signal came, None if none did. Whoever asks saves, and
      then calls `stop` outside of this context.
    """
    received: list[int] = []
    # Python runs handlers in the main thread alone, and sets them there alone.
    kinds = (
        (signal.SIGINT, signal.SIGTERM)
        if threading.current_thread() is threading.main_thread()
        else ()
    )
    # Who ignores a signal, as background jobs of a shell do SIGINT, goes on to; None:
    # a handler that Python could not put back.
    previous = {
        kind: handler
        for kind in kinds
        if (handler := signal.getsignal(kind)) not in (signal.SIG_IGN, None)
    }

    def restore() -> None:
        for kind, handler in previous.items():
            signal.signal(kind, handler)

    def note(number: int, frame: FrameType | None) -> None:
        if received:
            received.clear()
            restore()
            signal.raise_signal(number)
        received.append(number)

    try:
        for kind in previous:
            signal.signal(kind, note)
        yield lambda: received[0] if received else None
    except BaseException:
        restore()
        if received:
            signal.raise_signal(received[0])  # held back, not dropped
        raise
    finally:
        restore()


def stop(number: int, message: str) -> NoReturn:
    """Do now what the signal asked for; the message says what to do next.

    Raises:
      what the program's own handler raises, if it has set one; otherwise
      KeyboardInterrupt for SIGINT, SystemExit (with the status that shells know, 143)
      for SIGTERM.
    """
    if signal.getsignal(number) not in (signal.SIG_DFL, signal.default_int_handler):
        signal.raise_signal(number)
    if number == signal.SIGINT:
        raise KeyboardInterrupt(message)
    print(message, file=sys.stderr, flush=True)
    raise SystemExit(128 + number)
