"""The command line. What a command needs is loaded when it runs, so that `pymq --help` is quick."""

from __future__ import annotations

from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command `pymq` and exit. `arguments`: those of the process when None."""
    from pymq.cli.commands import commands

    commands.main(args=None if arguments is None else list(arguments), prog_name="pymq")
