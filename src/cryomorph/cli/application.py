"""All commands together, and how a command ends when something is wrong."""

import errno
import os
import sys
from typing import Annotated

import typer

from cryomorph import __version__
from cryomorph.cli.analyze import analyze
from cryomorph.cli.check import check
from cryomorph.cli.demo import demo
from cryomorph.cli.infer import infer
from cryomorph.cli.maps import maps
from cryomorph.cli.modes import modes
from cryomorph.cli.report import report
from cryomorph.cli.results import evaluate, export
from cryomorph.cli.simulate import simulate
from cryomorph.cli.train import train
from cryomorph.errors import InputError

COMMANDS = (check, train, infer, analyze, report, maps, evaluate, export, simulate, modes, demo)
"""In the order of --help."""

LOST_PEER = ("Connection closed by peer", "Connection reset by peer", "gloo", "NCCL")
"""What a process says when another one of the same run is gone."""

app = typer.Typer(
    name="cryomorph",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="The atomic conformation in every particle of a single-particle cryo-EM data set.",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"cryomorph {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and stop.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Handle what comes before a command."""


for command in COMMANDS:
    app.command()(command)


def main() -> None:
    """Run the command; what a user can mend ends with one line and exit code 2."""
    from cryomorph.console import errors, show_messages

    # Processes that Fabric starts for further devices run this command too; the first one speaks for all.
    process = int(os.environ.get("LOCAL_RANK", "0"))
    show_messages(quiet=process > 0)
    try:
        app()
    except SystemExit as stop:
        if stop.code == 130:  # Typer's answer to Ctrl-C
            errors.print("stopped; run the same command again to continue", style="yellow")
        raise
    except Exception as error:
        message = _plain(error)
        if message is None:
            raise
        who = f"process {process}: " if process else ""
        errors.print(f"error: {who}{message}", style="red", markup=False, highlight=False, soft_wrap=True)
        sys.exit(2)


def _plain(error: Exception) -> str | None:
    """Say in a line what a user can do about an error; None for an error in the program."""
    if isinstance(error, InputError):
        return str(error)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO):
        return f"{error.filename or 'output'}: {error.strerror}"
    if type(error).__name__ == "OutOfMemoryError":
        return "the GPU's memory is full; lower --batch or --box"
    if isinstance(error, RuntimeError) and any(sign in str(error) for sign in LOST_PEER):
        return "another process of this run stopped; see its own message"
    return None
