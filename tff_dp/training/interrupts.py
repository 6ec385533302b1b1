"""Ctrl-C during training: the first one ends it after the round, the second one at once."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType

INTERRUPTED = "was interrupted"  # see `Run.end`


@contextlib.contextmanager
def after_this_round() -> Iterator[Callable[[], bool]]:
    """Has the first Ctrl-C wait for the end of the round, and a second one interrupt at once.

    That holds in the main thread, and only while Ctrl-C raises KeyboardInterrupt: a handler of the
    program's own is left alone.

    Yields:
      A function that says whether there was a Ctrl-C.
    """
    before = signal.getsignal(signal.SIGINT)
    pressed: list[int] = []
    if (
        threading.current_thread() is not threading.main_thread()
        or before is not signal.default_int_handler
    ):
        yield lambda: False
        return

    def note(number: int, frame: FrameType | None) -> None:
        if pressed:
            signal.default_int_handler(number, frame)  # raises KeyboardInterrupt
        pressed.append(number)
        _say("Training ends after this round. Press Ctrl-C once more to end it at once.")

    signal.signal(signal.SIGINT, note)
    try:
        yield lambda: bool(pressed)
    finally:
        signal.signal(signal.SIGINT, before)


def say_how_to_resume(done: int, rounds: int, run_dir: str) -> None:
    """Prints how an interrupted run can go on.

    Args:
      done: The number of completed rounds.
      rounds: The number of rounds that were asked for.
      run_dir: The path of the run folder.
    """
    _say(
        f"Training was interrupted after {done} of {rounds} rounds, which are saved in {run_dir}. To go "
        f"on: tff_dp.resume({run_dir!r}, model, clients), or the same call of fit with resume=True."
    )


def _say(text: str) -> None:
    with contextlib.suppress(OSError, ValueError, RuntimeError):  # a closed or a busy stream
        print(f"\n{text}", file=sys.stderr, flush=True)
