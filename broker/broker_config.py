"""The broker's configuration: Apache's keys and defaults (4.9.4; store.md appendix), and a few of our own."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from enum import StrEnum
from typing import Annotated, ClassVar

from msgspec import Meta, field

from pymq.config import (
    Config,
    Count,
    InvalidValue,
    Long,
    Port,
    Positive,
    absolute,
    home,
    keys_with_values,
    split_addresses,
)
from pymq.errors import ConfigError
from pymq.network import SocketOptions, ipv4_address, listening_address

RECORD_OVERHEAD_MAX = 33 * 1024
"""Bytes that a record may add to its body: fixed fields, topic, 32,767 of properties, the blank behind it."""


class BrokerRole(StrEnum):
    """What a broker is in its replication group."""

    ASYNC_MASTER = "ASYNC_MASTER"
    SYNC_MASTER = "SYNC_MASTER"
    SLAVE = "SLAVE"


class FlushDiskType(StrEnum):
    """When a message counts as stored: copied to memory, or on the disk."""

    ASYNC_FLUSH = "ASYNC_FLUSH"
    SYNC_FLUSH = "SYNC_FLUSH"


IGNORED_KEYS = """
adminBrokerThreadPoolNums=16 autoDeleteUnusedStats=false bitMapLengthConsumeQueueExt=64
channelNotActiveInterval=60000 clientAsyncSemaphoreValue=65535 clientCallbackExecutorThreads=2
clientManageThreadPoolNums=32 clientManagerThreadPoolQueueCapacity=1000000 clientOnewaySemaphoreValue=65535
clientPooledByteBufAllocatorEnable=false clientWorkerThreads=4 commercialBaseCount=1 commercialBigCount=1
commercialEnable=true commercialTimerCount=1 commercialTransCount=1 commitCommitLogLeastPages=4
commitCommitLogThoroughInterval=200 consumerManageThreadPoolNums=32
consumerManagerThreadPoolQueueCapacity=1000000 dLegerGroup= dLegerPeers= dLegerSelfId= debugLockEnable=false
diskFallRecorded=true duplicationEnable=false enableBatchPush= enableCalcFilterBitMap=false enableLmq=false
enableScheduleMessageStats=true endTransactionThreadPoolNums=12
filterServerNums=0 flushConsumerOffsetHistoryInterval=60000 flushLeastPagesWhenWarmMapedFile=4096
haListenPort=10912 heartbeatThreadPoolNums=2 heartbeatThreadPoolQueueCapacity=50000 highSpeedMode=false
isEnableBatchPush=false isolateLogEnable=false mappedFileSizeConsumeQueueExt=50331648 maxDelayTime=40
maxLmqConsumeQueueNum=20000 messageStorePlugIn= preferredLeaderId=
processReplyMessageThreadPoolNums=20 pullMessageThreadPoolNums=20 putMessageFutureThreadPoolNums=2
putMsgIndexHightWater=600000 putThreadPoolQueueCapacity=10000 queryMessageThreadPoolNums=10
readOnlyCommitLogStorePaths= rocketmqHome= sendMessageThreadPoolNums=2 serverCallbackExecutorThreads=0
serverPooledByteBufAllocatorEnable=true serverSelectorThreads=3 serverWorkerThreads=8
storePathDLedgerCommitLog= transferMsgByHeap=true useEpollNativeSelector=false
useReentrantLockWhenPutMessage=true warmMapedFileEnable=false
"""
"""Keys that mean nothing here, with the defaults of Apache."""


NO_EFFECT_KEYS = {
    "no reader holds up the deletion of a file": "destroyMapedFileIntervalForcibly",
    "the index is whole after every start": "messageIndexSafe",
    "delayed messages are always delivered one after the other": """
        enableScheduleAsyncDeliver scheduleAsyncDeliverMaxPendingLimit
        scheduleAsyncDeliverMaxResendNum2Blocked""",
    "timed messages come to the millisecond": "timerPrecisionMs",
    "a slave never corrects an offset": "offsetCheckInSlave",
    "slow consumers are never refused": "consumerFallbehindThreshold",
    "no such figures are kept": "enableDetailStat",
    "requests are served as they come, none waits in a queue": """
        brokerFastFailureEnable osPageCacheBusyTimeOutMills waitTimeMillsInSendQueue waitTimeMillsInPullQueue
        waitTimeMillsInHeartbeatQueue waitTimeMillsInTransactionQueue
        endTransactionPoolQueueCapacity serverOnewaySemaphoreValue serverAsyncSemaphoreValue""",
    "there is no transient store pool": """
        transientStorePoolSize fastFailIfNoBufferInStorePool commitIntervalCommitLog""",
    "write buffers have a fixed bound": "writeBufferHighWaterMark writeBufferLowWaterMark",
    "connections to name servers stay open": "clientChannelMaxIdleTimeSeconds clientCloseSocketIfTimeout",
}
"""Why a key changes nothing in this version → such keys."""

NAME = re.compile(r"[\w.%|-]+")
"""Names of brokers and clusters, which may become topics: no blanks, no control characters, no slashes."""
NAME_MAX_LENGTH = 127


class BrokerConfig(Config, kw_only=True):
    """What a broker.conf can say. Times are in milliseconds and sizes in bytes where nothing else is said."""

    ALIASES: ClassVar[Mapping[str, str]] = {
        "mapedFileSizeCommitLog": "mappedFileSizeCommitLog",  # 4.3.2's spelling
        "mapedFileSizeConsumeQueue": "mappedFileSizeConsumeQueue",
    }
    MISSPELLINGS: ClassVar[Mapping[str, str]] = {"brokerIp1": "brokerIP1", "brokerIp2": "brokerIP2"}
    IGNORED: ClassVar[Mapping[str, str]] = keys_with_values(IGNORED_KEYS)
    NO_EFFECT: ClassVar[Mapping[str, str]] = {
        key: reason for reason, keys in NO_EFFECT_KEYS.items() for key in keys.split()
    }
    ENVIRONMENT: ClassVar[Mapping[str, str]] = {"NAMESRV_ADDR": "namesrvAddr"}

    # who and where
    namesrv_addr: str = ""  # host:port;host:port
    fetch_namesrv_addr_by_address_server: bool = False
    broker_cluster_name: str = "DefaultCluster"
    broker_name: str = ""  # empty: the host's name
    broker_id: Long = 0  # 0 master, more: slave
    broker_role: BrokerRole = BrokerRole.ASYNC_MASTER
    broker_ip1: str = field(default="", name="brokerIP1")  # told to clients; empty: this host's address
    broker_ip2: str = field(default="", name="brokerIP2")  # told to slaves; empty: this host's address
    listen_port: Port = 10911  # VIP port at -2, HA at +1; 0: any three that are free
    bind_address: str = "0.0.0.0"
    region_id: str = "DefaultRegion"
    register_broker_timeout_mills: Positive = 6_000
    register_name_server_period: Positive = 30_000  # held within 10,000 … 60,000
    force_register: bool = True  # False: ask first whether the name server needs it
    compressed_register: bool = False

    # topics and groups
    broker_permission: Annotated[int, Meta(ge=0, le=7)] = 6  # read 4 + write 2
    default_topic_queue_nums: Positive = 8
    auto_create_topic_enable: bool = True
    cluster_topic_enable: bool = True
    broker_topic_enable: bool = True
    auto_create_subscription_group: bool = True
    notify_consumer_ids_changed_enable: bool = True
    trace_topic_enable: bool = False
    msg_trace_topic_name: str = "RMQ_SYS_TRACE_TOPIC"
    trace_on: bool = True
    flush_consumer_offset_interval: Positive = 5_000

    # sending
    max_message_size: Positive = 4 * 1024 * 1024  # of a body
    reject_transaction_message: bool = False
    start_accept_send_request_time_stamp: Long = 0  # ms since 1970
    store_reply_message_enable: bool = True
    broker_fast_failure_enable: bool = True
    wait_time_mills_in_send_queue: Count = 200
    wait_time_mills_in_pull_queue: Count = 5_000
    wait_time_mills_in_heartbeat_queue: Count = 31_000
    wait_time_mills_in_transaction_queue: Count = 3_000
    send_thread_pool_queue_capacity: Positive = 10_000
    pull_thread_pool_queue_capacity: Positive = 100_000
    reply_thread_pool_queue_capacity: Positive = 10_000
    query_thread_pool_queue_capacity: Positive = 20_000
    end_transaction_pool_queue_capacity: Positive = 100_000
    os_page_cache_busy_time_out_mills: Count = 1_000

    # pulling
    long_polling_enable: bool = True
    short_polling_time_mills: Count = 1_000
    max_transfer_bytes_on_message_in_memory: Positive = 256 * 1024
    max_transfer_count_on_message_in_memory: Positive = 32
    max_transfer_bytes_on_message_in_disk: Positive = 64 * 1024
    max_transfer_count_on_message_in_disk: Positive = 8
    access_message_in_memory_max_ratio: Annotated[int, Meta(ge=0, le=100)] = 40  # percent of the memory
    slave_read_enable: bool = False
    disable_consume_if_consumer_read_slowly: bool = False
    consumer_fallbehind_threshold: Long = 16 * 1024**3
    enable_property_filter: bool = False  # SQL92
    filter_support_retry: bool = False
    filter_data_clean_time_span: Long = 86_400_000
    max_error_rate_of_bloom_filter: Annotated[int, Meta(ge=1, le=99)] = 20  # percent; for consumerFilter.json
    expect_consumer_num_use_filter: Positive = 32
    default_query_max_num: Positive = 32
    max_msgs_num_batch: Positive = 64
    enable_detail_stat: bool = True

    # delays and transactions
    message_delay_level: str = "1s 5s 10s 30s 1m 2m 3m 4m 5m 6m 7m 8m 9m 10m 20m 30m 1h 2h"
    flush_delay_offset_interval: Positive = 10_000
    timer_wheel_enable: bool = True  # False refuses messages with a time of delivery (5.x)
    timer_max_delay_sec: Positive = 3 * 24 * 3600  # how far ahead that may be
    timer_precision_ms: Positive = 1_000
    recall_message_enable: bool = True  # Apache: False
    enable_schedule_async_deliver: bool = False
    schedule_async_deliver_max_pending_limit: Positive = 2_000
    schedule_async_deliver_max_resend_num2_blocked: Count = field(
        default=3, name="scheduleAsyncDeliverMaxResendNum2Blocked"
    )
    transaction_time_out: Long = 6_000  # age at which a half message is asked about
    transaction_check_max: Count = 15  # so often; then it is discarded
    transaction_check_interval: Positive = 60_000

    # the store: files
    store_path_root_dir: str = field(default_factory=lambda: home("store"))
    store_path_commit_log: str = ""  # empty: `commitlog` in the root folder
    mapped_file_size_commit_log: Annotated[int, Meta(ge=4096, le=2**31 - 1)] = 1024**3
    mapped_file_size_consume_queue: Annotated[int, Meta(ge=20, le=2**31 - 1)] = 6_000_000  # held to 20s
    enable_consume_queue_ext: bool = False
    message_index_enable: bool = True
    message_index_safe: bool = False
    max_hash_slot_num: Positive = 5_000_000
    max_index_num: Annotated[int, Meta(ge=2, le=2**31 - 1)] = 20_000_000
    check_crc_on_recover: bool = field(default=True, name="checkCRCOnRecover")
    transient_store_pool_enable: bool = False
    transient_store_pool_size: Positive = 5
    fast_fail_if_no_buffer_in_store_pool: bool = False
    enable_multi_dispatch: bool = False
    enable_dleger_commit_log: bool = field(default=False, name="enableDLegerCommitLog")
    enable_controller_mode: bool = False  # of 5.x

    # the store: flushing
    flush_disk_type: FlushDiskType = FlushDiskType.ASYNC_FLUSH
    sync_flush_timeout: Positive = 5_000
    flush_interval_commit_log: Positive = 500
    flush_commit_log_timed: bool = True
    flush_commit_log_least_pages: Count = 4
    flush_commit_log_thorough_interval: Positive = 10_000
    commit_interval_commit_log: Positive = 200
    flush_interval_consume_queue: Positive = 1_000
    flush_consume_queue_least_pages: Count = 2
    flush_consume_queue_thorough_interval: Positive = 60_000

    # the store: keeping and deleting
    delete_when: str = "04"  # local hours, `;` between them
    file_reserved_time: Count = 72  # hours
    disk_max_used_space_ratio: Annotated[int, Meta(ge=1, le=100)] = 75  # percent, held within 10 … 95
    disk_space_clean_forcibly_ratio: Annotated[int, Meta(ge=1, le=100)] = 85  # percent; a key of 5.x
    disk_space_warning_level_ratio: Annotated[int, Meta(ge=1, le=100)] = 90  # percent; a key of 5.x
    # Our own; when not 0, the disk is full below it and short below its double, not by the two ratios above.
    disk_min_free_bytes: Long = 0
    clean_file_forcibly_enable: bool = True  # may delete messages that are not expired when space is short
    clean_resource_interval: Positive = 10_000  # how often the disk is judged, and what is old deleted
    delete_commit_log_files_interval: Count = 100
    delete_consume_queue_files_interval: Count = 100
    destroy_maped_file_interval_forcibly: Count = 120_000
    redelete_hanged_file_interval: Count = 120_000

    # replication
    ha_master_address: str = ""  # host:port of a fixed master
    ha_send_heartbeat_interval: Positive = 5_000
    ha_housekeeping_interval: Positive = 20_000
    ha_transfer_batch_size: Positive = 32 * 1024
    ha_slave_fallbehind_max: Long = 256 * 1024 * 1024
    slave_timeout: Positive = 3_000
    offset_check_in_slave: bool = False

    # connections
    server_channel_max_idle_time_seconds: Positive = 120
    server_oneway_semaphore_value: Positive = 256
    server_async_semaphore_value: Positive = 64
    server_socket_snd_buf_size: Count = 0  # 0: the system's choice, here and below
    server_socket_rcv_buf_size: Count = 0
    server_socket_backlog: Positive = 1024
    write_buffer_high_water_mark: Count = 0
    write_buffer_low_water_mark: Count = 0
    connect_timeout_millis: Positive = 3_000  # to name servers and the master
    client_channel_max_idle_time_seconds: Positive = 120
    client_socket_snd_buf_size: Count = 0
    client_socket_rcv_buf_size: Count = 0
    client_close_socket_if_timeout: bool = True

    # safety
    acl_enable: bool = False
    use_tls: bool = field(default=False, name="useTLS")

    @property
    def namesrv_addresses(self) -> list[str]:
        """The name servers, each `host:port`, without repeats."""
        return split_addresses(self.namesrv_addr)

    @property
    def delete_hours(self) -> frozenset[int]:
        """The local hours (0 … 23) in which expired files are deleted."""
        return frozenset(int(hour) for hour in self.delete_when.split(";") if hour.strip())

    @property
    def commit_log_folder(self) -> str:
        """Where the commit log's segments lie."""
        return self.store_path_commit_log or os.path.join(self.store_path_root_dir, "commitlog")

    @property
    def socket_options(self) -> SocketOptions:
        """What its sockets are given."""
        return SocketOptions(
            backlog=self.server_socket_backlog,
            accepted_send_bytes=self.server_socket_snd_buf_size,
            accepted_receive_bytes=self.server_socket_rcv_buf_size,
            opened_send_bytes=self.client_socket_snd_buf_size,
            opened_receive_bytes=self.client_socket_rcv_buf_size,
        )

    def settle(self, warn: Callable[[str, str], None]) -> None:
        """Check each value against the others. A master's brokerId becomes 0, as with Apache.

        Relative folders become absolute, and hosts' names their IPv4 addresses.
        """
        if self.broker_role is not BrokerRole.SLAVE and self.broker_id != 0:
            warn("brokerId", f"a master's id is 0, not {self.broker_id}: 0 is taken, as Apache does")
            self.broker_id = 0
        for key, expected in self._faults():
            raise InvalidValue(key, expected)
        self._settle_addresses()
        self.store_path_root_dir = absolute(self.store_path_root_dir)
        if self.store_path_commit_log:
            self.store_path_commit_log = ",".join(map(absolute, self.store_path_commit_log.split(",")))

    def _settle_addresses(self) -> None:
        """What clients are told is stamped into each record, and 4.3.2 cannot read one with an IPv6 host."""
        try:
            self.bind_address = listening_address(self.bind_address)
        except ValueError as error:
            raise InvalidValue("bindAddress", f"an address of this machine, or its name ({error})") from None
        for key, name in (("brokerIP1", "broker_ip1"), ("brokerIP2", "broker_ip2")):
            if getattr(self, name):
                try:
                    setattr(self, name, ipv4_address(getattr(self, name)))
                except ValueError as error:
                    raise InvalidValue(key, f"an IPv4 address, or a name that has one ({error})") from None
        if ":" in self.bind_address and self.bind_address != "::" and not self.broker_ip1:
            raise InvalidValue(
                "brokerIP1", f"an IPv4 address to tell to clients, since bindAddress is {self.bind_address}"
            )

    def _faults(self) -> Iterator[tuple[str, str]]:
        if self.broker_role is BrokerRole.SLAVE and self.broker_id == 0:
            yield "brokerId", "more than 0, since brokerRole is SLAVE"
        for key, name in (("brokerClusterName", self.broker_cluster_name), ("brokerName", self.broker_name)):
            is_left_out = key == "brokerName" and not name
            if not is_left_out and not (NAME.fullmatch(name) and len(name.encode()) <= NAME_MAX_LENGTH):
                yield key, f"letters, digits and . _ - % |, at most {NAME_MAX_LENGTH} bytes"
        if self.listen_port in (1, 2, 65_535):
            yield "listenPort", "0, or 3 to 65534: the port 2 below it and the one above it are used too"
        try:
            split_addresses(self.namesrv_addr)
        except ValueError as error:
            yield "namesrvAddr", f"host:port;host:port ({error})"
        if not re.fullmatch(r"([01]?\d|2[0-3])(;([01]?\d|2[0-3]))*;?", self.delete_when, re.ASCII):
            yield "deleteWhen", "hours from 0 to 23 with ; between them, as 04;16"
        if not re.fullmatch(r"\d{1,9}[smhd]( +\d{1,9}[smhd])*", self.message_delay_level.strip(), re.ASCII):
            yield "messageDelayLevel", "times like 1s 5m 2h 1d with blanks between them"
        if not self.store_path_root_dir:
            yield "storePathRootDir", "a folder"
        room = self.mapped_file_size_commit_log - RECORD_OVERHEAD_MAX
        if self.max_message_size > room:
            yield (
                "maxMessageSize",
                (
                    f"at most {max(room, 0)}: a message with its properties must fit into one segment "
                    f"(mappedFileSizeCommitLog={self.mapped_file_size_commit_log})"
                ),
            )


def check_supported(config: BrokerConfig, origins: Mapping[str, str] | None = None) -> None:
    """Stop at what this version cannot do yet, instead of running as something weaker.

    `origins` tells where a key was set (Loaded.origins). Raises ConfigError.
    """
    for key, value in _not_supported(config):
        where = (origins or {}).get(key, "configuration")
        raise ConfigError(f"{where}: {key}={value} is not supported yet by this version of pymq")


def _not_supported(config: BrokerConfig) -> Iterator[tuple[str, str]]:
    if "," in config.store_path_commit_log:
        yield "storePathCommitLog", config.store_path_commit_log
    switches = {
        "aclEnable": config.acl_enable,
        "useTLS": config.use_tls,
        "disableConsumeIfConsumerReadSlowly": config.disable_consume_if_consumer_read_slowly,
        "fetchNamesrvAddrByAddressServer": config.fetch_namesrv_addr_by_address_server,
        "transientStorePoolEnable": config.transient_store_pool_enable,
        "enableConsumeQueueExt": config.enable_consume_queue_ext,  # its units hold no hashes of tags
        "enableMultiDispatch": config.enable_multi_dispatch,
        "enableDLegerCommitLog": config.enable_dleger_commit_log,
        "enableControllerMode": config.enable_controller_mode,
    }
    yield from ((key, "true") for key, on in switches.items() if on)
