"""What a cluster consists of: read from the conf files of its brokers, before anything is started.

The files say what they say to `pymq broker`. Decided here is only what has to differ where all run on one
machine: folders, and the ports and addresses that a file leaves at their defaults.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pymq
from pymq.broker.broker_config import BrokerConfig, BrokerRole, check_supported
from pymq.broker.ports import HA_OFFSET, VIP_OFFSET
from pymq.cli.programs import LOOPBACK
from pymq.config import Loaded, load
from pymq.errors import ConfigError, PortInUse
from pymq.network import ANY_ADDRESS, Network, listening_address, split_address

DEFAULT_NAME_SERVERS = f"{LOOPBACK}:9876;{LOOPBACK}:9877"
"""For brokers whose files name none."""
DEFAULT_PORTS = range(10_911, 65_000, 10)
"""listenPort of brokers whose files set none, the first that no other one of the cluster uses."""

FOLDER_KEYS = ("storePathRootDir", "storePathCommitLog")


@dataclass(frozen=True)
class NameServerPlan:
    """A name server to run. `name_in_files`: `host:port` by which the conf files know it."""

    name: str
    host: str
    port: int
    name_in_files: str


@dataclass(frozen=True)
class BrokerPlan:
    """A broker to run.

    Attributes:
        name: brokerName and brokerId, which no other has.
        conf: its conf file.
        role: its brokerRole in the file.
        host: where it is reached on this machine.
        namesrv_addresses: its name servers as in the file.
        settings: what goes before the file.
    """

    name: str
    conf: Path
    role: str
    host: str
    namesrv_addresses: tuple[str, ...]
    settings: dict[str, str]

    @property
    def is_slave(self) -> bool:
        """Whether it copies another's log."""
        return self.role == BrokerRole.SLAVE


@dataclass
class Layout:
    """All that is to run. `warnings` are about the conf files."""

    name: str
    name_servers: list[NameServerPlan] = field(default_factory=list)
    brokers: list[BrokerPlan] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def shipped_layouts() -> dict[str, Path]:
    """The folders of the layouts that come with pymq, by name."""
    folders = (Path(pymq.__file__).parent / "conf").iterdir()
    return {folder.name: folder for folder in sorted(folders) if folder.is_dir()}


def find_files(words: Sequence[str]) -> tuple[str, list[Path]]:
    """The layout's name and its conf files, for a layout's name, folders or files. Raises ConfigError."""
    shipped, files = shipped_layouts(), list[Path]()
    for word in words:
        folder = shipped.get(word, Path(word))
        if folder.is_dir():
            found = sorted(path for path in folder.iterdir() if path.suffix in (".conf", ".properties"))
            if not found:
                raise ConfigError(f"no conf file (*.conf, *.properties) is in the folder {folder}")
            files += found
        elif folder.exists():
            files.append(folder)
        else:
            known = ", ".join(shipped)
            raise ConfigError(
                f"no layout, folder or conf file is called {word}; there are the layouts {known}"
            )
    first = Path(words[0])
    name = words[0] if words[0] in shipped else (first if first.is_dir() else first.parent).resolve().name
    return name or "cluster", files


def plan(
    name: str,
    files: Iterable[Path],
    data: Path,
    settings: Mapping[str, str],
    free_ports: bool,
    network: Network,
) -> Layout:
    """Decide what runs where. Raises ConfigError.

    `settings` go before the files of all brokers; everything is stored below `data`.
    """
    for key in FOLDER_KEYS:
        if key in settings:
            raise ConfigError(
                f"command line: {key} cannot be set for a whole cluster: --data says where it stores"
            )
    layout = Layout(name)
    loaded = sorted((_load(path, settings) for path in files), key=_order)
    _refuse_twins(loaded)
    ports = {} if free_ports else _ports(loaded)
    for path, each in loaded:
        broker = _broker(path, each, ports.get(path, 0), data, settings, network)
        layout.brokers.append(broker)
        layout.warnings += each.warnings
        if name not in shipped_layouts():
            layout.warnings += [
                f"{each.origin(key)}: {key} has no effect on a cluster: it stores below {data}"
                for key in FOLDER_KEYS
                if _is_set(each, key)
            ]
        for address in broker.namesrv_addresses:
            if all(known.name_in_files != address for known in layout.name_servers):
                number = len(layout.name_servers) + 1
                layout.name_servers.append(_name_server(address, each, number, free_ports, network))
    return layout


def _broker(
    path: Path,
    loaded: Loaded[BrokerConfig],
    listen_port: int,
    data: Path,
    settings: Mapping[str, str],
    network: Network,
) -> BrokerPlan:
    config = loaded.value
    name = f"{config.broker_name or network.host_name()}-{config.broker_id}"
    own = {key: text for key, text in settings.items() if key != "namesrvAddr"}
    own |= {"storePathRootDir": str(data / name), "storePathCommitLog": ""}
    if not listen_port or not _is_set(loaded, "listenPort"):
        own["listenPort"] = str(listen_port)
    if not _is_set(loaded, "bindAddress") and config.broker_ip1 in ("", LOOPBACK):
        own["bindAddress"] = LOOPBACK
    host = LOOPBACK if config.bind_address in ("", ANY_ADDRESS, "::") else config.bind_address
    servers = tuple(config.namesrv_addresses)
    return BrokerPlan(name, path.absolute(), config.broker_role.value, host, servers, own)


def _refuse_twins(loaded: Iterable[tuple[Path, Loaded[BrokerConfig]]]) -> None:
    names: dict[tuple[str, int], Path] = {}
    for path, each in loaded:
        name = each.value.broker_name, each.value.broker_id
        if name in names:
            raise ConfigError(
                f"{names[name]} and {path} are both brokerName={name[0]}, brokerId={name[1]}: "
                "each broker needs its own"
            )
        names[name] = path


def _load(path: Path, settings: Mapping[str, str]) -> tuple[Path, Loaded[BrokerConfig]]:
    loaded = load(BrokerConfig, path, settings)
    loaded.fill("namesrvAddr", DEFAULT_NAME_SERVERS, "pymq cluster up")
    check_supported(loaded.value, loaded.origins)
    return path, loaded


def _order(loaded: tuple[Path, Loaded[BrokerConfig]]) -> tuple[str, int]:
    return loaded[1].value.broker_name, loaded[1].value.broker_id


def _is_set(loaded: Loaded[BrokerConfig], key: str) -> bool:
    return loaded.origin(key) != "default"


def _ports(loaded: Iterable[tuple[Path, Loaded[BrokerConfig]]]) -> dict[Path, int]:
    """listenPort of each broker. Raises ConfigError where two want the same port."""
    users: dict[int, str] = {}
    ports: dict[Path, int] = {}
    for _, each in loaded:
        for address in each.value.namesrv_addresses:
            users[split_address(address)[1]] = f"the name server {address}"
    for path, each in loaded:
        if _is_set(each, "listenPort"):
            ports[path] = each.value.listen_port
            for port in _three(ports[path]):
                if port in users:
                    raise ConfigError(
                        f"{path}: listenPort={ports[path]} takes port {port}, as does {users[port]} "
                        f"(a broker takes listenPort, the port {-VIP_OFFSET} below it, and the one above it)"
                    )
            users |= dict.fromkeys(_three(ports[path]), str(path))
    for path, each in loaded:
        if not _is_set(each, "listenPort"):
            ports[path] = next(port for port in DEFAULT_PORTS if not users.keys() & set(_three(port)))
            users |= dict.fromkeys(_three(ports[path]), str(path))
    return ports


def _three(listen_port: int) -> tuple[int, ...]:
    """The ports that a broker takes; none that can be told where it picks them itself."""
    return (listen_port, listen_port + VIP_OFFSET, listen_port + HA_OFFSET) if listen_port else ()


def _name_server(
    address: str, loaded: Loaded[BrokerConfig], number: int, free_ports: bool, network: Network
) -> NameServerPlan:
    """Plan a name server. Raises ConfigError where its host is another machine."""
    host, port = split_address(address)
    try:
        host = listening_address(host)
        network.listen(host, 0).close()
    except (ValueError, PortInUse) as error:
        reason = error.reason if isinstance(error, PortInUse) else str(error)
        raise ConfigError(
            f"{loaded.origin('namesrvAddr')}: namesrvAddr={address} is not on this machine ({reason}): "
            "`pymq cluster up` runs all name servers of the files here"
        ) from None
    return NameServerPlan(f"namesrv-{number}", host, 0 if free_ports else port, address)
