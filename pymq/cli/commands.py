"""The commands and their options, in words. The work is done in the modules beside this one."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from pymq.cli.background import Background, shut_down
from pymq.errors import PymqError

F = TypeVar("F", bound=Callable[..., Any])

DEFAULT_NAMESRV = "127.0.0.1:9876"


class Commands(click.Group):
    """Ends with one line on stderr and status 1 where pymq, or the system, says no."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise  # click ends quietly when the reader of a pipe has gone
        except (PymqError, OSError) as error:
            said: BaseException = error
        except ExceptionGroup as group:
            said_no, others = group.split((PymqError, OSError))
            if said_no is None or others is not None:
                raise
            said = _first(said_no)
        click.echo(f"pymq: {' '.join(str(said).split())}", err=True)
        ctx.exit(1)


def _first(group: BaseException) -> BaseException:
    while isinstance(group, BaseExceptionGroup):
        group = group.exceptions[0]
    return group


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="pymq-rocketmq", prog_name="pymq")
def commands() -> None:
    """RocketMQ without the JVM: name server, brokers, and a client."""


def conf_option(command: F) -> F:
    """Give a command `-c FILE`."""
    return click.option(
        "-c", "conf", metavar="FILE", type=click.Path(path_type=Path), help="Read this conf file."
    )(command)


def print_option(command: F) -> F:
    """Give a command `-p`."""
    return click.option(
        "-p", "show", is_flag=True, help="Print each setting, and where it came from; then exit."
    )(command)


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


@commands.command()
@conf_option
@print_option
@background_options
def namesrv(
    conf: Path | None, show: bool, daemon: bool, pid_file: Path | None, log_file: Path | None
) -> None:
    """Run a name server."""
    from pymq.cli import programs

    programs.run_namesrv(conf, show, Background(daemon, pid_file, log_file))


@commands.command()
@conf_option
@click.option("-n", "namesrv_addr", metavar="ADDRS", help="The name servers, host:port;host:port.")
@print_option
@background_options
def broker(
    conf: Path | None,
    namesrv_addr: str | None,
    show: bool,
    daemon: bool,
    pid_file: Path | None,
    log_file: Path | None,
) -> None:
    """Run a broker. NAMESRV_ADDR names the name servers where neither -n nor the file does."""
    from pymq.cli import programs

    programs.run_broker(conf, namesrv_addr, show, Background(daemon, pid_file, log_file))


@commands.command()
@click.option(
    "--data",
    metavar="DIR",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("data"),
    show_default=True,
    help="The folder for everything that is stored.",
)
@click.option(
    "--port", type=click.IntRange(0, 65535), default=10911, show_default=True, help="Broker; 0: any."
)
@click.option(
    "--namesrv-port",
    type=click.IntRange(0, 65535),
    default=9876,
    show_default=True,
    help="Name server; 0: any.",
)
@conf_option
@click.option("--hello", is_flag=True, help="Send and consume a first message, and say how to connect.")
@print_option
@background_options
def standalone(
    data: Path,
    port: int,
    namesrv_port: int,
    conf: Path | None,
    hello: bool,
    show: bool,
    daemon: bool,
    pid_file: Path | None,
    log_file: Path | None,
) -> None:
    """Run a name server and a broker on 127.0.0.1.

    Both in one process, with everything below one folder."""
    from pymq.cli import programs

    programs.run_standalone(
        data, port, namesrv_port, conf, hello, show, Background(daemon, pid_file, log_file)
    )


@commands.command()
@click.argument("topic")
@click.argument("body")
@click.option("--tags", default="", help="The message's tag.")
@click.option("--keys", default="", help="Keys to find it by, blanks between them.")
@click.option("--property", "properties", metavar="K=V", multiple=True, help="A property; may come again.")
@namesrv_option
def send(topic: str, body: str, tags: str, keys: str, properties: tuple[str, ...], namesrv: str) -> None:
    """Send one message with BODY, a text, to TOPIC."""
    from pymq.cli import messages

    messages.send(namesrv, topic, os.fsencode(body), tags, keys.split(), _pairs(properties))


@commands.command()
@click.argument("topic")
@click.option("-g", "--group", default="pymq-consume", show_default=True, help="The consumer group.")
@click.option("--tags", default="*", show_default=True, help="Tags to take, `a || b`.")
@click.option("--count", type=click.IntRange(min=1), help="End after this many messages.")
@click.option(
    "--from",
    "start",
    metavar="first|last|TIME",
    default="last",
    show_default=True,
    help="Where a group begins that has no offset yet; TIME as 2024-05-01T12:00.",
)
@click.option("-v", "--verbose", is_flag=True, help="Show queue, offset, keys and properties too.")
@namesrv_option
def consume(
    topic: str, group: str, tags: str, count: int | None, start: str, verbose: bool, namesrv: str
) -> None:
    """Print the messages of TOPIC as they come.

    One line each, until interrupted or --count is reached."""
    from pymq.cli import messages

    messages.consume(namesrv, topic, group, tags, count, messages.start_of(start), verbose)


@commands.command()
@click.argument("program", type=click.Choice(["namesrv", "broker", "standalone"]))
@click.option(
    "--pid-file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The one with this pid file.  [default: all of them in ~/.pymq/run]",
)
def shutdown(program: str, pid_file: Path | None) -> None:
    """Stop a program and wait until it has ended.

    Every one of its kind that this user runs on this machine, in the background or not."""
    for line in shut_down(program, pid_file):
        click.echo(line)


def _pairs(properties: tuple[str, ...]) -> dict[str, str]:
    for item in properties:
        if "=" not in item:
            raise click.BadParameter(f"{item!r} is not K=V", param_hint="--property")
    return dict(item.split("=", 1) for item in properties)
