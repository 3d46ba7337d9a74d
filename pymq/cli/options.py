"""Options that several commands have."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])

DEFAULT_NAMESRV = "127.0.0.1:9876"


def namesrv_option(command: F) -> F:
    """Give a client's command `-n ADDRS`."""
    return click.option(
        "-n",
        "namesrv",
        metavar="ADDRS",
        envvar="NAMESRV_ADDR",
        default=DEFAULT_NAMESRV,
        show_default=True,
        show_envvar=True,
        help="The name servers, host:port;host:port.",
    )(command)


def trace_option(command: F) -> F:
    """Give a client's command `--trace`."""
    return click.option("--trace", is_flag=True, help="Let `pymq trace` see what is done.")(command)


def background_options(command: F) -> F:
    """Give a command `--daemon`, `--pid-file` and `--log-file`."""
    path = click.Path(path_type=Path, dir_okay=False)
    for option in (
        click.option("--log-file", type=path, help="Where a daemon logs.  [default: in ~/.pymq/logs]"),
        click.option("--pid-file", type=path, help="Where the process id goes.  [default: in ~/.pymq/run]"),
        click.option("--daemon", is_flag=True, help="Run in the background; return when it is ready."),
    ):
        command = option(command)
    return command


def stdin_option(command: F) -> F:
    """Give a program `--until-stdin-ends`, for what starts it and must not leave it behind."""
    return click.option("--until-stdin-ends", is_flag=True, hidden=True)(command)


def set_option(command: F) -> F:
    """Give a command `--set KEY=VALUE`."""
    return click.option(
        "--set",
        "pairs",
        metavar="KEY=VALUE",
        multiple=True,
        help="A setting that goes before the conf file's; may come again.",
    )(command)


def pairs_of(texts: Sequence[str], option: str) -> dict[str, str]:
    """Read the values of an option that takes K=V. Raises BadParameter."""
    for text in texts:
        if "=" not in text:
            raise click.BadParameter(f"{text!r} is not K=V", param_hint=option)
    return dict(text.split("=", 1) for text in texts)
