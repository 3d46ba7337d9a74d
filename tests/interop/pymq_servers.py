"""pymq's name server and broker as real processes, started by the command line that users type."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.interop.processes import (
    HOST,
    Cluster,
    Node,
    Server,
    broker_conf,
    free_port,
    wait_for_registration,
    write_conf,
)


def _start(program: str, conf: Path) -> Server:
    command = (sys.executable, "-m", "pymq", program, "-c", str(conf))
    return Server(f"pymq-{program}", command, conf.parent, {**os.environ, "HOME": str(conf.parent)})


def pymq_name_server(folder: Path, **settings: object) -> Node:
    """Start pymq's name server and wait until it listens."""
    port = free_port()
    conf = {"listenPort": port, "bindAddress": HOST, "kvConfigPath": folder / "kvConfig.json"} | settings
    node = Node(_start("namesrv", write_conf(folder / "namesrv.conf", conf)), port, folder)
    node.server.wait_for_port(port)
    return node


def pymq_broker(
    folder: Path, name_servers: Sequence[Node], name: str = "broker-a", port: int = 0, **settings: object
) -> Node:
    """Start pymq's broker (on a free port if none is given), wait until all its name servers know it."""
    port = port or free_port()
    small = {"mappedFileSizeCommitLog": 16 << 20, "bindAddress": HOST}
    conf = broker_conf(folder, name_servers, port, name) | small | settings
    node = Node(_start("broker", write_conf(folder / "broker.conf", conf)), port, folder)
    wait_for_registration(node, name_servers)
    return node


def pymq_cluster(folder: Path) -> Cluster:
    """Start pymq's name server and one broker."""
    name_server = pymq_name_server(folder / "namesrv")
    return Cluster("pymq", name_server, pymq_broker(folder / "broker", [name_server]))
