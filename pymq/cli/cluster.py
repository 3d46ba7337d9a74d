"""`pymq cluster up`: the name servers and brokers of a layout as processes, watched until a signal comes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
from collections.abc import AsyncIterator, Iterable, Sequence
from functools import partial
from pathlib import Path

from pymq.cli.background import Background
from pymq.cli.cluster_display import Display
from pymq.cli.cluster_layout import BrokerPlan, Layout, NameServerPlan, find_files, plan
from pymq.cli.cluster_process import ClusterProcess
from pymq.cli.cluster_state import ClusterState, Member
from pymq.cli.programs import Started, run
from pymq.errors import PymqError
from pymq.network import Network, SystemNetwork, split_address
from pymq.transport.pool import Pool

log = logging.getLogger("pymq.cli")

LOOK_S = 1.0
"""How often the state is asked for."""


def run_cluster(
    words: Sequence[str],
    data: Path | None,
    free_ports: bool,
    settings: dict[str, str],
    background: Background,
) -> None:
    """Run a cluster until a signal.

    `words`: a layout's name, folders, conf files. `settings` go before the files' of all brokers. Raises
    PymqError.
    """
    network = SystemNetwork()
    name, files = find_files(words)
    folder = data or Path("data") / name
    layout = plan(name, files, folder.absolute(), settings, free_ports, network)
    first = layout.name_servers[0].port
    run("cluster", first, layout.warnings, partial(open_cluster, layout, folder, network), background)


@contextlib.asynccontextmanager
async def open_cluster(layout: Layout, data: Path, network: Network) -> AsyncIterator[Started]:
    """Run a cluster as long as the context lasts. Raises PymqError, also when all its processes are gone."""
    cluster, main = Cluster(layout, data), asyncio.current_task()
    assert main is not None
    try:
        await cluster.start()
        pool = Pool(network, {})
        display = Display(sys.stdout, len(layout.name_servers))
        watching = asyncio.ensure_future(cluster.watch(display))
        showing = asyncio.ensure_future(_show(ClusterState(*cluster.members(), pool), display))
        watching.add_done_callback(lambda task: None if task.cancelled() else main.cancel())
        try:
            addresses = ";".join(process.address for process in cluster.name_servers)
            brokers = f"{len(layout.brokers)} broker{'' if len(layout.brokers) == 1 else 's'}"
            line = f"pymq cluster {layout.name} is ready: {brokers}, name servers {addresses}, data in {data}"
            yield Started(f"cluster-{split_address(cluster.name_servers[0].address)[1]}", line)
        except asyncio.CancelledError:
            if not watching.done():
                raise
            main.uncancel()
            raise PymqError(f"all processes of the cluster have ended (logs: {data / 'logs'})") from None
        finally:
            showing.cancel()
            watching.cancel()
            await pool.close()
    finally:
        await cluster.stop()


async def _show(state: ClusterState, display: Display) -> None:
    while True:
        try:
            display.show(await state.look(), asyncio.get_running_loop().time())
        except Exception:
            log.exception("the state cannot be shown; it is tried again")
        await asyncio.sleep(LOOK_S)


class Cluster:
    """The processes of a layout.

    Attributes:
        name_servers: their processes, in the layout's order.
    """

    def __init__(self, layout: Layout, data: Path) -> None:
        self._layout = layout
        self._data = data
        self.name_servers = [self._name_server(each) for each in layout.name_servers]
        self._brokers: dict[str, ClusterProcess] = {}

    async def start(self) -> None:
        """Start the name servers, then the masters, then the slaves. Raises PymqError."""
        await _start(self.name_servers)
        known = {
            each.name_in_files: process.address
            for each, process in zip(self._layout.name_servers, self.name_servers, strict=True)
        }
        for are_slaves in (False, True):
            plans = [each for each in self._layout.brokers if each.is_slave is are_slaves]
            processes = {each.name: self._broker(each, known) for each in plans}
            self._brokers |= processes
            await _start(processes.values())

    async def stop(self) -> None:
        """Stop the masters, then the slaves, which have all of their logs by then, then the name servers."""
        slaves = {each.name for each in self._layout.brokers if each.is_slave}
        masters = [process for name, process in self._brokers.items() if name not in slaves]
        copies = [process for name, process in self._brokers.items() if name in slaves]
        for stage in (masters, copies, self.name_servers):
            for wrong in await asyncio.gather(*(process.stop() for process in stage)):
                if wrong:
                    log.error("%s", wrong)

    async def watch(self, display: Display) -> None:
        """Tell of each process that ends; return when none is left."""
        await asyncio.gather(
            *(_tell_end(process, display) for process in (*self.name_servers, *self._brokers.values()))
        )

    def members(self) -> tuple[list[Member], list[Member]]:
        """Name servers and brokers, to be asked for their state."""
        servers = [Member(each.name, "name server", each.address, each.address) for each in self.name_servers]
        brokers = []
        for each in self._layout.brokers:
            address = self._brokers[each.name].address
            here = f"{each.host}:{split_address(address)[1]}"
            brokers.append(Member(each.name, each.role, address, here, each.name.rpartition("-")[0]))
        return servers, brokers

    def _name_server(self, each: NameServerPlan) -> ClusterProcess:
        folder = self._data.absolute() / each.name
        settings = {
            "bindAddress": each.host,
            "listenPort": str(each.port),
            "kvConfigPath": str(folder / "kvConfig.json"),
            "configStorePath": str(folder / "namesrv.properties"),
        }
        return ClusterProcess(each.name, ["namesrv", *_options(settings)], self._data)

    def _broker(self, each: BrokerPlan, known: dict[str, str]) -> ClusterProcess:
        addresses = ";".join(known[address] for address in each.namesrv_addresses)
        words = ["broker", "-c", str(each.conf), "-n", addresses, *_options(each.settings)]
        return ClusterProcess(each.name, words, self._data)


async def _start(processes: Iterable[ClusterProcess]) -> None:
    """Start them all at once; the first that does not start ends it. Raises PymqError."""
    try:
        async with asyncio.TaskGroup() as starting:
            for process in processes:
                starting.create_task(_start_one(process))
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from None


async def _start_one(process: ClusterProcess) -> None:
    await process.start()
    log.info("%s is ready at %s", process.name, process.address)


async def _tell_end(process: ClusterProcess, display: Display) -> None:
    await process.wait()
    if not process.is_stopping:
        display.say(f"{process.name} has ended: {process.how_it_ended()}")


def _options(settings: dict[str, str]) -> list[str]:
    return [word for key, text in settings.items() for word in ("--set", f"{key}={text}")]
