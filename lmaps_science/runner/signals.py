"""SIGTERM, by which batch systems end a run: a level is finished and kept first."""

from __future__ import annotations

import signal
import threading
from types import FrameType

from lmaps_science.sampling import State

__all__ = ["Sigterm", "Terminated"]


class Terminated(KeyboardInterrupt):
    """The process was asked to end (SIGTERM), by a batch system for one."""

    exit_code = 128 + signal.SIGTERM


class Sigterm:
    """SIGTERM, as a context: it raises Terminated after the level of `sample` in which it came.

    A second one does so at once, as does the first when the levels are done. Only the main thread
    gets signals; elsewhere this does nothing.
    """

    def __init__(self) -> None:
        self.asked = self.at_once = False

    def __enter__(self) -> Sigterm:
        self._main = threading.current_thread() is threading.main_thread()
        if self._main:
            self._before = signal.signal(signal.SIGTERM, self._ask)
        return self

    def __exit__(self, *error: object) -> None:
        if self._main:
            signal.signal(signal.SIGTERM, self._before)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.asked or self.at_once:
            raise Terminated
        self.asked = True

    def after_level(self, level: int, state: State) -> None:
        """The callback for `sample`."""
        if self.asked:
            raise Terminated
