"""The commands and their options, in words. The work is done in the modules beside this one."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from pymq.cli.background import Background, shut_down
from pymq.cli.cluster_commands import cluster
from pymq.cli.group_commands import group
from pymq.cli.options import (
    background_options,
    namesrv_option,
    pairs_of,
    set_option,
    stdin_option,
    trace_option,
)
from pymq.cli.store_commands import store
from pymq.cli.trace_command import trace
from pymq.errors import PymqError

if TYPE_CHECKING:
    from pymq.client.client import ConsumerOptions

F = TypeVar("F", bound=Callable[..., Any])


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


@commands.command()
@conf_option
@set_option
@print_option
@background_options
@stdin_option
def namesrv(
    conf: Path | None,
    pairs: tuple[str, ...],
    show: bool,
    daemon: bool,
    pid_file: Path | None,
    log_file: Path | None,
    until_stdin_ends: bool,
) -> None:
    """Run a name server."""
    from pymq.cli import programs

    background = Background(daemon, pid_file, log_file, until_stdin_ends)
    programs.run_namesrv(conf, pairs_of(pairs, "--set"), show, background)


@commands.command()
@conf_option
@click.option("-n", "namesrv_addr", metavar="ADDRS", help="The name servers, host:port;host:port.")
@set_option
@print_option
@background_options
@stdin_option
def broker(
    conf: Path | None,
    namesrv_addr: str | None,
    pairs: tuple[str, ...],
    show: bool,
    daemon: bool,
    pid_file: Path | None,
    log_file: Path | None,
    until_stdin_ends: bool,
) -> None:
    """Run a broker. NAMESRV_ADDR names the name servers where neither -n nor the file does."""
    from pymq.cli import programs

    background = Background(daemon, pid_file, log_file, until_stdin_ends)
    programs.run_broker(conf, namesrv_addr, pairs_of(pairs, "--set"), show, background)


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
@trace_option
@namesrv_option
def send(
    topic: str, body: str, tags: str, keys: str, properties: tuple[str, ...], trace: bool, namesrv: str
) -> None:
    """Send one message with BODY, a text, to TOPIC."""
    from pymq.cli import messages

    own = pairs_of(properties, "--property")
    messages.send(namesrv, topic, os.fsencode(body), tags, keys.split(), own, trace)


@commands.command()
@click.argument("topic")
@click.option("-g", "--group", default="pymq-consume", show_default=True, help="The consumer group.")
@click.option("--tags", default="*", show_default=True, help="Tags to take, `a || b`.")
@click.option("--sql", help="Messages to take by their properties, `a > 5 AND b IS NOT NULL`.")
@click.option("--count", type=click.IntRange(min=1), help="End after this many messages.")
@click.option(
    "--from",
    "start",
    metavar="first|last|TIME",
    default="last",
    show_default=True,
    help="Where a group begins that has no offset yet; TIME as 2024-05-01T12:00.",
)
@click.option("--ordered", is_flag=True, help="Each queue's messages one by one, by one member of the group.")
@click.option("--broadcast", is_flag=True, help="All messages, whatever other members of the group get.")
@click.option("-v", "--verbose", is_flag=True, help="Show queue, offset, keys and properties too.")
@trace_option
@namesrv_option
def consume(
    topic: str,
    group: str,
    tags: str,
    sql: str | None,
    count: int | None,
    start: str,
    ordered: bool,
    broadcast: bool,
    verbose: bool,
    trace: bool,
    namesrv: str,
) -> None:
    """Print the messages of TOPIC as they come.

    One line each, until interrupted or --count is reached."""
    from pymq.cli import messages

    options: ConsumerOptions = {
        "tags": tags,
        "sql": sql,
        "start": messages.start_of(start),
        "order": "ordered" if ordered else "concurrent",
        "broadcast": broadcast,
    }
    messages.consume(namesrv, topic, group, options, count, verbose, trace)


@commands.command()
@click.argument("program", type=click.Choice(["namesrv", "broker", "standalone", "cluster"]))
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


commands.add_command(cluster)
commands.add_command(group)
commands.add_command(store)
commands.add_command(trace)
