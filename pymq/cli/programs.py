"""Starting name servers and brokers: from their options to a running process that ends cleanly."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

import click

import pymq
from pymq.cli.background import Background, PidFile, detach, state_folder
from pymq.cli.collector import bound_pauses
from pymq.config import Loaded, load
from pymq.errors import PymqError

if TYPE_CHECKING:
    from pymq.broker.broker_config import BrokerConfig
    from pymq.clock import SystemClock
    from pymq.namesrv.namesrv_config import NamesrvConfig
    from pymq.network import SystemNetwork
    from pymq.system_disk import SystemDisk

log = logging.getLogger("pymq.cli")

LOOPBACK = "127.0.0.1"
LOG_LINE = "%(asctime)s.%(msecs)03d %(levelname)s %(name)s %(message)s"


@dataclass(frozen=True)
class Started:
    """A program that is ready: its name for files, and the line that says so."""

    name: str
    line: str


Opening = Callable[[], AbstractAsyncContextManager[Started]]


class Outside(TypedDict):
    """The world outside a program, as its constructor takes it."""

    clock: SystemClock
    disk: SystemDisk
    network: SystemNetwork


def outside() -> Outside:
    """Give the machine's own clock, disk and network."""
    from pymq.clock import SystemClock
    from pymq.network import SystemNetwork
    from pymq.system_disk import SystemDisk

    return Outside(clock=SystemClock(), disk=SystemDisk(), network=SystemNetwork())


def run_namesrv(conf: Path | None, settings: dict[str, str], show: bool, background: Background) -> None:
    """Run a name server until a signal. `show`: only print its configuration. Raises PymqError.

    `settings` go before those of the conf file, here and below.
    """
    from pymq.namesrv.namesrv_config import NamesrvConfig

    written = {} if conf is None else {"configStorePath": str(conf)}
    loaded = load(NamesrvConfig, conf, written | settings, os.environ)
    if not show_only(show, loaded):
        opening = partial(open_namesrv, loaded.value)
        run("namesrv", loaded.value.listen_port, loaded.warnings, opening, background)


def run_broker(
    conf: Path | None, namesrv_addr: str | None, settings: dict[str, str], show: bool, background: Background
) -> None:
    """Run a broker until a signal. `show`: only print its configuration. Raises PymqError."""
    from pymq.broker.broker_config import BrokerConfig, check_supported

    where = {} if namesrv_addr is None else {"namesrvAddr": namesrv_addr}
    loaded = load(BrokerConfig, conf, where | settings, os.environ)
    fill_own_names(loaded, show)
    if not show_only(show, loaded):
        check_supported(loaded.value, loaded.origins)
        opening = partial(open_broker, loaded.value)
        run("broker", loaded.value.listen_port, loaded.warnings, opening, background)


def run_standalone(
    data: Path,
    port: int,
    namesrv_port: int,
    conf: Path | None,
    hello: bool,
    show: bool,
    background: Background,
) -> None:
    """Run a name server and one master, both on 127.0.0.1, until a signal. Raises PymqError."""
    from pymq.broker.broker_config import BrokerConfig, check_supported
    from pymq.namesrv.namesrv_config import NamesrvConfig

    names = load(
        NamesrvConfig,
        overrides={
            "listenPort": str(namesrv_port),
            "bindAddress": LOOPBACK,
            "kvConfigPath": str(data / "namesrv" / "kvConfig.json"),
            "configStorePath": str(data / "namesrv" / "namesrv.properties"),
        },
    )
    loaded = load(
        BrokerConfig,
        conf or Path(pymq.__file__).parent / "conf" / "standalone.conf",
        {
            "namesrvAddr": f"{LOOPBACK}:{namesrv_port}" if namesrv_port else "",
            "listenPort": str(port),
            "bindAddress": LOOPBACK,
            "brokerIP1": LOOPBACK,
            "brokerIP2": LOOPBACK,
            "storePathRootDir": str(data / "store"),
        },
    )
    fill_own_names(loaded, show)
    if not show_only(show, names, loaded):
        check_supported(loaded.value, loaded.origins)
        opening = partial(open_standalone, names.value, loaded.value, data, hello)
        run("standalone", port, loaded.warnings, opening, background)


def fill_own_names(loaded: Loaded[BrokerConfig], show: bool) -> None:
    """Give the broker's name its real value where no one set it; to show them, the addresses too.

    (A broker chooses its addresses itself, and logs why.)
    """
    from pymq.network import SystemNetwork

    network, config = SystemNetwork(), loaded.value
    loaded.fill("brokerName", network.host_name(), "this machine's name")
    if show:
        if config.bind_address not in ("", "0.0.0.0", "::"):
            loaded.fill("brokerIP1", config.bind_address, "bindAddress")
        loaded.fill("brokerIP1", network.own_address(), "this machine's address")
        loaded.fill("brokerIP2", config.broker_ip1, "brokerIP1")


def show_only(show: bool, *shown: Loaded[Any]) -> bool:
    """Print the configurations, and their warnings on stderr, where that is all that was asked for."""
    if show:
        for loaded in shown:
            click.echo(f"# {type(loaded.value).__name__}\n{loaded.describe()}")
        for warning in (warning for loaded in shown for warning in loaded.warnings):
            click.echo(f"warning: {warning}", err=True)
    return show


@contextlib.asynccontextmanager
async def open_namesrv(config: NamesrvConfig) -> AsyncIterator[Started]:
    """Run a name server as long as the context lasts."""
    from pymq.namesrv.app import NameServer

    async with NameServer(config, **outside()) as names:
        yield Started(f"namesrv-{names.port}", f"pymq namesrv is ready: {names.address}")


@contextlib.asynccontextmanager
async def open_broker(config: BrokerConfig) -> AsyncIterator[Started]:
    """Run a broker as long as the context lasts."""
    from pymq.broker.app import Broker

    async with Broker(config, **outside()) as broker:
        where = f"name servers {config.namesrv_addr}" if config.namesrv_addr else "no name server"
        line = f"pymq broker is ready: {config.broker_name} at {broker.address}, {where}"
        yield Started(f"broker-{broker.port}", line)


@contextlib.asynccontextmanager
async def open_standalone(
    names_config: NamesrvConfig, broker_config: BrokerConfig, data: Path, hello: bool
) -> AsyncIterator[Started]:
    """Run a name server and a broker that knows it as long as the context lasts."""
    from pymq.broker.app import Broker
    from pymq.namesrv.app import NameServer

    async with NameServer(names_config, **outside()) as names:
        namesrv = f"{LOOPBACK}:{names.port}"
        broker_config.namesrv_addr = namesrv
        async with Broker(broker_config, **outside()) as broker:
            line = (
                f"pymq standalone is ready: name server {namesrv}, "
                f"broker {LOOPBACK}:{broker.port}, data in {data}"
            )
            if hello:
                from pymq.cli.messages import say_hello

                line += "\n" + await say_hello(namesrv)
            yield Started(f"standalone-{broker.port}", line)


def run(name: str, port: int, warnings: list[str], opening: Opening, background: Background) -> None:
    """Run a program until SIGTERM or SIGINT, in the foreground or detached.

    `port` is the one asked for: it names the log file. Raises PymqError.
    """
    tell = None
    if background.daemon:
        which = f"{name}-{port}.log" if port else f"{name}.log"
        tell = detach(background.log_file or state_folder("logs") / which)
    elif background.log_file:
        raise PymqError("--log-file goes with --daemon: in the foreground the log goes to stdout")
    log_to_stdout()
    for warning in warnings:
        log.warning("%s", warning)

    def announce(line: str) -> None:
        print(line, flush=True)
        if tell:
            tell(True, line)

    bound_pauses(outside()["clock"])
    try:
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            runner.run(_until_stopped(opening(), background, announce))
    except Exception as error:
        if tell:
            tell(False, str(error) or repr(error))
        raise
    if tell:
        tell(False, "stopped before it was ready")  # nobody listens any more where it was ready


async def _until_stopped(
    opening: AbstractAsyncContextManager[Started], background: Background, announce: Callable[[str], None]
) -> None:
    stop, task, is_open = asyncio.Event(), asyncio.current_task(), False

    def end() -> None:
        stop.set()
        if task and not is_open:  # opening may take its time: it need not come to its end
            task.cancel()

    _on_signals(end)
    if background.until_stdin_ends:
        await _on_end_of_stdin(end)
    held = None
    try:
        async with opening as started:
            is_open = True
            held = _hold_pid_file(background.pid_file, started.name)
            announce(started.line)
            await stop.wait()
            log.info("stopping")
    except asyncio.CancelledError:
        if is_open or not stop.is_set():
            raise
        log.info("stopped before it was ready")
    else:
        log.info("stopped")
    if held:
        held.remove()


def _on_signals(stop: Callable[[], None]) -> None:
    """Call `stop` at the first SIGTERM or SIGINT. A second one ends the process at once."""
    loop = asyncio.get_running_loop()
    chosen = (signal.SIGTERM, signal.SIGINT)

    def first() -> None:
        for number in chosen:
            loop.remove_signal_handler(number)
        stop()

    for number in chosen:
        try:
            loop.add_signal_handler(number, first)
        except NotImplementedError:  # Windows
            signal.signal(number, lambda *_: loop.call_soon_threadsafe(stop))


class _EndOfInput(asyncio.Protocol):
    """Waits for the end of a pipe."""

    def __init__(self, ended: Callable[[], None]) -> None:
        self._ended = ended

    def connection_lost(self, error: Exception | None) -> None:
        """It has ended: who held the other end is gone, however it went."""
        self._ended()


async def _on_end_of_stdin(stop: Callable[[], None]) -> None:
    """Call `stop` when the standard input, a pipe, ends."""
    try:
        await asyncio.get_running_loop().connect_read_pipe(lambda: _EndOfInput(stop), sys.stdin)
    except ValueError as error:
        raise PymqError(f"--until-stdin-ends needs a pipe as standard input: {error}") from None


def _hold_pid_file(path: Path | None, name: str) -> PidFile | None:
    try:
        return PidFile(path or state_folder("run") / f"{name}.pid")
    except (OSError, PymqError) as error:
        if path:
            raise
        log.warning("no pid file, `pymq shutdown` will not find this process: %s", error)
        return None


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Give uvloop's loop; None, the standard one, where uvloop does not exist."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


class OneLine(logging.Formatter):
    """One line for an event: time, level, logger, text. Only a traceback takes more."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        """Give the line; what came from outside cannot forge another."""
        return super().formatMessage(record).replace("\n", "\\n").replace("\r", "\\r")


def log_to_stdout() -> None:
    """Send the log of this process to stdout."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(OneLine(LOG_LINE, "%Y-%m-%d %H:%M:%S"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
