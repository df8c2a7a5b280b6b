"""The command line: ``diffrec train | evaluate | audit | recommend | complete | slate
| export | info``.

Results go to standard output, everything else to standard error. Exit codes: 0 success, 1 system error (no space, no
permission), 2 wrong input, 130 interrupted. If the environment has ``DIFFREC_TRACEBACK=1``, errors are printed with a
traceback.
"""

from __future__ import annotations

import os
from typing import Annotated

import typer

from diffusers_rec.cli.audit import audit_command
from diffusers_rec.cli.complete import complete_command
from diffusers_rec.cli.evaluate import evaluate_command
from diffusers_rec.cli.export import export_command
from diffusers_rec.cli.info import info_command
from diffusers_rec.cli.recommend import recommend_command
from diffusers_rec.cli.slate import slate_command
from diffusers_rec.cli.terminal import stderr, terminal_session
from diffusers_rec.cli.train import train_command
from diffusers_rec.version import __version__

app = typer.Typer(
    help="Diffusion models for sequential recommendation: train, evaluate, audit, recommend, fill gaps.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.command("train")(train_command)
app.command("evaluate")(evaluate_command)
app.command("audit")(audit_command)
app.command("recommend")(recommend_command)
app.command("complete")(complete_command)
app.command("slate")(slate_command)
app.command("export")(export_command)
app.command("info")(info_command)


def _print_version(is_given: bool) -> None:
    if is_given:
        print(__version__)
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


def run() -> int:
    """Run the command line and return its exit code."""
    with terminal_session():
        return _run()


def _run() -> int:
    try:
        code: int = app(prog_name="diffrec", standalone_mode=False) or 0
        if code == 130:  # newer versions of typer return it for an interrupt; older ones abort
            raise KeyboardInterrupt
        return code
    except (KeyboardInterrupt, typer.Abort):
        stderr.print("Interrupted. To resume a training run or a file, start the same command again.")
        return 130
    except (ValueError, TypeError, ImportError) as error:
        return _fail(error, 2)
    except OSError as error:
        is_input = isinstance(error, FileNotFoundError | IsADirectoryError | NotADirectoryError)
        return _fail(error, 2 if is_input and error.__cause__ is None else 1)  # a failed write has a cause
    except (MemoryError, RuntimeError, OverflowError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        is_size = not isinstance(error, RuntimeError) or "memory" in reason
        return _fail(error, 1, f"{reason}. A size is too large for this machine; lower it." if is_size else reason)
    except Exception as error:
        show = getattr(error, "show", None)  # the parser's error on a wrong option or argument
        if show is None:
            raise
        show()
        return 2


def _fail(error: Exception, code: int, message: str = "") -> int:
    if os.environ.get("DIFFREC_TRACEBACK"):
        stderr.print_exception()
    stderr.print(f"diffrec: {message or error}", style="red")
    return code
