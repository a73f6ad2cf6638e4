"""How the program ends: on a signal at any moment, and without waiting for what still runs.

ONNX Runtime aborts where the interpreter ends beside threads that are inside of it, so a process of
our own leaves by ``os._exit``, after all that ``atexit`` knows.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable

INTERRUPTED = 130
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_GRACE = 0.7  # seconds between a signal and the end, whatever the main thread is doing


def run(job: Callable[[], None], *, own_process: bool) -> None:
    """Run a command: the first SIGINT or SIGTERM interrupts it, those that follow are ignored.

    Args:
        job: ends with SystemExit; KeyboardInterrupt becomes exit code 130.
        own_process: whether the process ends with the job; then 130 comes within a second, even
            where the job cannot be interrupted. Otherwise the signals are as before afterwards.
    """
    before: dict[signal.Signals, Any] = {}
    try:
        if threading.current_thread() is threading.main_thread():
            before = _take_signals()
            if own_process:
                _watch()
        code = _code_of(job)
        if own_process:
            _leave(code)
    except KeyboardInterrupt:  # between two of these lines
        code = INTERRUPTED
        if own_process:
            _leave(code)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    sys.exit(code)


def _code_of(job: Callable[[], None]) -> int:
    try:
        job()
    except KeyboardInterrupt:
        return INTERRUPTED
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
            return 1
        return end.code or 0
    return 0


def _take_signals() -> dict[signal.Signals, Any]:
    """Handle the signals that the parent does not ignore; return the handlers before."""
    before = {
        number: handler
        for number in _SIGNALS
        if (handler := signal.getsignal(number)) not in (signal.SIG_IGN, None)
    }

    def stop(*_: object) -> None:
        _ignore_signals()
        raise KeyboardInterrupt

    for number in before:
        signal.signal(number, stop)
    return before


def _ignore_signals() -> None:
    for number in _SIGNALS:  # SIG_IGN is told of as an error where a signal has just come
        signal.signal(number, lambda *_: None)


def _watch() -> None:
    """End the process a moment after a signal; the interpreter alone waits for a call to return."""
    reading, writing = os.pipe()
    if hasattr(os, "set_blocking"):  # Windows has it from Python 3.12 on, and can do without
        os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)

    def wait() -> None:
        while os.read(reading, 1)[0] not in _SIGNALS:
            pass
        time.sleep(_GRACE)
        os._exit(INTERRUPTED)

    threading.Thread(target=wait, name="mrnn-signals", daemon=True).start()
    tell = sys.unraisablehook

    def unraisable(lost: sys.UnraisableHookArgs) -> None:
        # Where a signal meets a finaliser, its exception is lost; the thread ends the process.
        if lost.exc_type is not KeyboardInterrupt:
            tell(lost)

    sys.unraisablehook = unraisable


def _leave(code: int) -> NoReturn:
    _ignore_signals()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            with suppress(OSError, ValueError):  # a closed pipe has been told of
                stream.flush()
    os._exit(code)


def fill_closed_streams() -> None:
    """Put the null device where stdin, stdout or stderr was closed, before files take its place.

    ``sys.stdin`` and ``sys.stdout`` stay None then; what needs them says so.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - as long as we live
