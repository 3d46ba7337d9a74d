"""The name server's configuration: Apache's keys and defaults (4.9.4; store.md appendix), and bindAddress."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ClassVar

from msgspec import field

from pymq.config import Config, Count, InvalidValue, Port, Positive, absolute, home, keys_with_values
from pymq.network import SocketOptions, listening_address

IGNORED_KEYS = """
clusterTest=false productEnvName=center rocketmqHome= serverCallbackExecutorThreads=0
serverPooledByteBufAllocatorEnable=true serverSelectorThreads=3 serverWorkerThreads=8
useEpollNativeSelector=false
"""
"""Keys that mean nothing here, with the defaults of Apache."""


class NamesrvConfig(Config, kw_only=True):
    """What a namesrv.conf can say. Sizes are in bytes."""

    IGNORED: ClassVar[Mapping[str, str]] = keys_with_values(IGNORED_KEYS)
    NO_EFFECT: ClassVar[Mapping[str, str]] = {
        "serverOnewaySemaphoreValue": "requests are served one after the other",
        "serverAsyncSemaphoreValue": "requests are served one after the other",
        "writeBufferHighWaterMark": "write buffers have a fixed bound",
        "writeBufferLowWaterMark": "write buffers have a fixed bound",
    }

    listen_port: Port = 9876  # 0: any that is free
    bind_address: str = "0.0.0.0"
    kv_config_path: str = field(default_factory=lambda: home("namesrv", "kvConfig.json"))
    config_store_path: str = field(default_factory=lambda: home("namesrv", "namesrv.properties"))
    order_message_enable: bool = False  # give the ordered-topic config in route answers
    server_channel_max_idle_time_seconds: Positive = 120
    server_oneway_semaphore_value: Positive = 256
    server_async_semaphore_value: Positive = 64
    server_socket_snd_buf_size: Count = 0  # 0: the system's choice, here and below
    server_socket_rcv_buf_size: Count = 0
    server_socket_backlog: Positive = 1024
    write_buffer_high_water_mark: Count = 0
    write_buffer_low_water_mark: Count = 0

    @property
    def socket_options(self) -> SocketOptions:
        """What its sockets are given."""
        return SocketOptions(
            backlog=self.server_socket_backlog,
            accepted_send_bytes=self.server_socket_snd_buf_size,
            accepted_receive_bytes=self.server_socket_rcv_buf_size,
        )

    def settle(self, warn: Callable[[str, str], None]) -> None:
        """Check that the files that are written have a place; relative paths become absolute.

        A host's name in bindAddress becomes its IPv4 address.
        """
        try:
            self.bind_address = listening_address(self.bind_address)
        except ValueError as error:
            raise InvalidValue("bindAddress", f"an address of this machine, or its name ({error})") from None
        for key, path in (("kvConfigPath", self.kv_config_path), ("configStorePath", self.config_store_path)):
            if not path:
                raise InvalidValue(key, "a file path")
        self.kv_config_path = absolute(self.kv_config_path)
        self.config_store_path = absolute(self.config_store_path)
