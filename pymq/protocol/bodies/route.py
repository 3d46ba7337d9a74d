"""Where topics are (wire.md §7.4): the answer of the name server in the forms that its askers read."""

from __future__ import annotations

import msgspec
from msgspec import field

from pymq.protocol import tolerant_json
from pymq.protocol.bodies.body import Body, Int, Long

MASTER_ID = 0
"""The broker id of a master; slaves have higher ones."""


class QueueData(Body):
    """A topic's queues on one broker. `perm` is made of PERM_… bits.

    The flag stands twice on the wire: up to 4.8 its name is topicSynFlag, from 4.9 on topicSysFlag.
    """

    broker_name: str
    read_queue_nums: Int
    write_queue_nums: Int
    perm: Int
    topic_sys_flag: Int = 0
    topic_syn_flag: Int = 0

    def __post_init__(self) -> None:
        """Whichever name the sender knows, both hold the flag."""
        self.topic_sys_flag = self.topic_syn_flag = self.topic_sys_flag or self.topic_syn_flag


class BrokerData(Body):
    """The brokers of one name: master and slaves."""

    broker_name: str
    cluster: str = ""
    broker_addrs: dict[Long, str] = field(default_factory=dict)
    """Broker id → `host:port`."""

    def encode(self) -> bytes:
        """With broker ids as integer keys, without quotes."""
        return tolerant_json.encode(_encodable(self, quoted=False))


class TopicRouteData(Body):
    """Where a topic is: its queues, and the brokers that hold them (answer to 105)."""

    queue_datas: list[QueueData] = field(default_factory=list)
    broker_datas: list[BrokerData] = field(default_factory=list)
    filter_server_table: dict[str, list[str]] = field(default_factory=dict)
    """Broker address → filter servers."""
    order_topic_conf: str | None = None
    """`broker-a:4;broker-b:4`: the fixed queues of an ordered topic."""

    def encode(self, *, standard_json: bool = False) -> bytes:
        """The answer, compact: the Go client takes it apart by `,` and `:`.

        Args:
            standard_json: quoted broker ids and only ASCII, for askers from 4.9.4 on; else integer keys.
        """
        json = tolerant_json.encode(
            _EncodableRoute(
                self.queue_datas,
                [_encodable(data, quoted=standard_json) for data in self.broker_datas],
                self.filter_server_table,
                self.order_topic_conf,
            )
        )
        return tolerant_json.escape_non_ascii(json) if standard_json else json


class ClusterInfo(Body):
    """All brokers by name, and the names by cluster (answer to 106)."""

    broker_addr_table: dict[str, BrokerData] = field(default_factory=dict)
    cluster_addr_table: dict[str, list[str]] = field(default_factory=dict)

    def encode(self) -> bytes:
        """Broker ids are integer keys in every version."""
        brokers = {name: _encodable(data, quoted=False) for name, data in self.broker_addr_table.items()}
        return tolerant_json.encode(_EncodableCluster(brokers, self.cluster_addr_table))


class _EncodableBroker(msgspec.Struct, rename="camel"):
    broker_name: str
    cluster: str
    broker_addrs: msgspec.Raw


class _EncodableRoute(msgspec.Struct, rename="camel", omit_defaults=True):
    queue_datas: list[QueueData]
    broker_datas: list[_EncodableBroker]
    filter_server_table: dict[str, list[str]]
    order_topic_conf: str | None = None


class _EncodableCluster(msgspec.Struct, rename="camel"):
    broker_addr_table: dict[str, _EncodableBroker]
    cluster_addr_table: dict[str, list[str]]


def _encodable(data: BrokerData, *, quoted: bool) -> _EncodableBroker:
    if quoted:
        by_id = {broker_id: data.broker_addrs[broker_id] for broker_id in sorted(data.broker_addrs)}
        addresses = msgspec.Raw(msgspec.json.encode(by_id))
    else:
        addresses = tolerant_json.encode_map(data.broker_addrs)
    return _EncodableBroker(data.broker_name, data.cluster, addresses)
