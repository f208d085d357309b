"""What the commands of the package and of its fields share: errors in one line, exit codes.

Nothing heavy is imported here, so that `lmaps --help` answers at once.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, TypeVar

import typer

__all__ = ["DEBUG", "PLAIN", "reported"]

Command = TypeVar("Command", bound=Callable[..., None])
DEBUG: ContextVar[bool] = ContextVar("debug", default=False)
PLAIN: dict[str, Any] = {"rich_markup_mode": None, "no_args_is_help": True}


def reported(command: Command) -> Command:
    """Errors as one line on stderr and exit code 1; an interrupt as exit code 130."""

    @functools.wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except (typer.Exit, BrokenPipeError):  # whoever read the output has seen enough
            raise
        except KeyboardInterrupt as error:
            typer.echo(f"\ninterrupted{': ' + str(error) if str(error) else ''}", err=True)
            raise typer.Exit(130) from None
        except Exception as error:
            if DEBUG.get():
                raise
            typer.echo(f"error: {_sentence(error)}", err=True)
            raise typer.Exit(1) from None

    return wrapped  # type: ignore[return-value]


def _sentence(error: Exception) -> str:
    expected = (ValueError, OSError, ImportError, FloatingPointError)
    if isinstance(error, OSError) and error.strerror:
        text = error.strerror + (f": {error.filename}" if error.filename else "")
    else:
        text = " ".join(str(error).split())
    if isinstance(error, expected):
        return text
    return f"{type(error).__name__}: {text} (lmaps --debug shows where)"
