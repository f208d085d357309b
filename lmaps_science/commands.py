"""What the commands of the package and of its fields share: errors in one line, exit codes.

Nothing heavy is imported here, so that `lmaps --help` answers at once.
"""

from __future__ import annotations

import functools
import inspect
from collections import Counter
from collections.abc import Callable
from contextvars import ContextVar
from typing import Annotated, Any, TypeVar

import typer
from typer.core import TyperCommand

__all__ = ["DEBUG", "PLAIN", "Force", "OnceCommand", "reported"]

Command = TypeVar("Command", bound=Callable[..., None])
DEBUG: ContextVar[bool] = ContextVar("debug", default=False)
PLAIN: dict[str, Any] = {"rich_markup_mode": None, "no_args_is_help": True}
Force = Annotated[bool, typer.Option("--force", help="Replace what is there.")]


class OnceCommand(TyperCommand):
    """A command that refuses an option given twice: the last one would win without a word."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Like the parent's, which takes the last of several values."""
        if not ctx.resilient_parsing:
            given = Counter(self.make_parser(ctx).parse_args(args=list(args))[2])
            for option, times in given.items():
                single = option.param_type_name == "option" and not option.multiple
                if single and times > 1 and not getattr(option, "is_flag", False):
                    ctx.fail(f"{option.opts[-1]} was given {times} times; it takes one value.")
        return super().parse_args(ctx, args)


def reported(command: Command) -> Command:
    """Errors as one line on stderr and exit code 1, or with --debug, which it adds, in full.

    An interrupt is exit code 130; one that has an `exit_code` of its own, that.
    """

    @functools.wraps(command)
    def wrapped(*args: Any, debug: bool = False, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except (typer.Exit, BrokenPipeError):  # whoever read the output has seen enough
            raise
        except KeyboardInterrupt as error:
            typer.echo(f"\ninterrupted{': ' + str(error) if str(error) else ''}", err=True)
            raise typer.Exit(getattr(error, "exit_code", 130)) from None
        except Exception as error:
            if debug or DEBUG.get():
                raise
            typer.echo(f"error: {_sentence(error)}", err=True)
            raise typer.Exit(1) from None

    option = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
    signature = inspect.signature(command, eval_str=True)
    added = inspect.Parameter("debug", inspect.Parameter.KEYWORD_ONLY, default=False)
    parameters = [*signature.parameters.values(), added.replace(annotation=option)]
    wrapped.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    wrapped.__annotations__ = {**command.__annotations__, "debug": option}
    return wrapped  # type: ignore[return-value]


def _sentence(error: Exception) -> str:
    expected = (ValueError, OSError, ImportError, FloatingPointError)
    if isinstance(error, OSError) and error.strerror:
        text = error.strerror + (f": {error.filename}" if error.filename else "")
    else:
        text = " ".join(str(error).split())
    if isinstance(error, expected):
        return text
    if isinstance(error, MemoryError) or "allocate" in text:  # PyTorch's is a RuntimeError
        return (
            f"the arrays do not fit into memory ({text}). Take fewer pixels, or ones that are not "
            "so small; or fewer samples side by side (--batch-size)"
        )
    return f"{type(error).__name__}: {text} (--debug shows where)"
