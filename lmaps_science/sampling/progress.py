"""How far a run is: a bar on a terminal and in notebooks, plain lines in logs, or nothing."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Mapping
from types import TracebackType

from tqdm.auto import tqdm

__all__ = ["Progress", "say"]

LOG = logging.getLogger("lmaps_science")  # of the whole package


class Progress:
    """Shows the steps of a run, and how long the rest will take.

    Where stderr is no terminal, a line tells what a step costs and how long the rest will take:
    after the first step or `FIRST` seconds, whichever is later, and then every minute.

    Args:
        name: what runs.
        total: how many steps it has.
        done: steps of an earlier run from which this one goes on.
        unit: what a step is called.
        shown: False to show nothing.

    Example:
        with Progress("LMAPS", total=40) as progress:
            progress.step(misfit="213")
    """

    FIRST = 5.0  # a run that is over by then needs no estimate
    SECONDS = 60.0  # between two lines

    def __init__(
        self, name: str, total: int, done: int = 0, *, unit: str = "level", shown: bool = True
    ) -> None:
        self._name, self._total, self._unit = name, total, unit
        self._first = self._done = done
        self._lines = shown and not _redraws()
        self._started = self._warm = time.monotonic()
        self._next = self._started + self.FIRST
        if shown and done:
            say(f"{name}: resuming at {unit} {done} of {total}")
        self._bar = tqdm(
            total=total,
            initial=done,
            disable=not shown or self._lines,
            desc=name,
            unit=unit,
            smoothing=0.05,
        )

    def step(self, **facts: str) -> None:
        """One more step is done; `facts` say where the run stands."""
        self._done += 1
        if self._done - self._first == 1:
            self._warm = time.monotonic()
        self._bar.set_postfix(facts, refresh=False)
        self._bar.update()
        self._line(facts)

    def count(self, before: bool, **facts: str) -> None:
        """One more step is done; one done `before` tells nothing of how long the others take."""
        if not before:
            return self.step(**facts)
        self._done += 1
        self._first += 1
        if not self._bar.disable:
            self._bar.initial += 1
        self._bar.update()

    def note(self, **facts: str) -> None:
        """`facts` say where the run stands in the midst of a step."""
        self._bar.set_postfix(facts, refresh=False)
        self._bar.update(0)
        self._line(facts)

    def _line(self, facts: Mapping[str, str]) -> None:
        now, steps = time.monotonic(), self._done - self._first
        if not self._lines or now < self._next:
            return
        self._next = now + self.SECONDS
        known = "".join(f", {key} {value}" for key, value in facts.items())
        line = f"{self._name}: {self._unit} {self._done} of {self._total}{known}"
        if steps:
            # The first step loads and warms up more than the others, which tell the rest better.
            each = now - self._started if steps == 1 else (now - self._warm) / (steps - 1)
            rest = duration(each * (self._total - self._done))
            line += f"; {duration(each)} each, about {rest} to go"
        say(line)

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.close()


def say(line: str) -> None:
    """A line on stderr, above a bar where there is one.

    Where a program listens to the logger `lmaps_science` at INFO, the line goes there instead.
    """
    if LOG.isEnabledFor(logging.INFO) and LOG.hasHandlers():
        LOG.info(line)
    else:
        tqdm.write(line, file=sys.stderr)


def duration(seconds: float) -> str:
    """In words: `2.1 s`, `3 min 20 s`, `2 h 5 min`."""
    if seconds < 100:
        return f"{seconds:.2g} s"
    minutes = round(seconds / 60)
    if minutes < 10:
        return f"{int(seconds) // 60} min {int(seconds) % 60} s"
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


def _redraws() -> bool:
    """Whether a bar that redraws itself can be seen: on a terminal, and as a notebook's widget."""
    widget = any(cls.__module__ == "tqdm.notebook" for cls in tqdm.__mro__)
    return widget or sys.stderr.isatty()
