"""The client's numbers in one place: Apache's unless said otherwise (semantics.md §11–13)."""

from __future__ import annotations

import math

import msgspec

from pymq.errors import ConfigError
from pymq.protocol.codes import ResponseCode

_MAY_BE_ZERO = frozenset(
    ("send_retries", "send_async_retries", "retry_pause_s", "suspect_s", "compress_from_bytes", "surrender_s")
)
"""Of these 0 means: none, at once, or all."""

_YES_OR_NO = frozenset(("send_latency_fault_enable", "retry_another_broker_when_not_store_ok"))

_RETRIED_CODES = frozenset(
    map(
        int,
        (
            ResponseCode.TOPIC_NOT_EXIST,
            ResponseCode.SERVICE_NOT_AVAILABLE,
            ResponseCode.SYSTEM_ERROR,
            ResponseCode.NO_PERMISSION,
            ResponseCode.NO_BUYER_ID,
            ResponseCode.NOT_IN_CURRENT_UNIT,
        ),
    )
)


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Periods, limits and time-outs of a client. Times in seconds, sizes in bytes."""

    poll_name_server_s: float = 30.0
    """How often known routes are asked for again."""
    poll_missing_route_s: float = 3.0
    """How often a subscribed topic is looked for that no name server knows yet (Apache: 30 s)."""
    heartbeat_s: float = 30.0
    rebalance_s: float = 20.0
    commit_s: float = 5.0
    """How often consumed offsets are committed."""

    call_timeout_s: float = 3.0
    """For questions to name servers and brokers, connecting included."""
    close_timeout_s: float = 3.0
    """For what is said to a broker on the way out: last offsets, leaving a group."""

    send_retries: int = 2
    """Further attempts after the first one has failed. Java: retryTimesWhenSendFailed."""
    send_async_retries: int = 2
    """The same for `send_nowait`. Java: retryTimesWhenSendAsyncFailed."""
    retry_codes: frozenset[int] = _RETRIED_CODES
    """Refusals after which another broker may still take the message. Java: addRetryResponseCode."""
    retry_another_broker_when_not_store_ok: bool = False
    """Whether a message that was stored less safely than its broker is set to goes to another one as well."""
    retry_pause_s: float = 0.1
    """Before a second attempt at the same broker; doubled before the third (Apache: none)."""
    suspect_s: float = 10.0
    """How long a broker that could not be reached is passed over while others can take the message."""
    send_latency_fault_enable: bool = False
    """Whether brokers that were slow (0.55 s or more) or failed are passed over, for 30 s up to 600 s."""
    compress_from_bytes: int = 4096
    max_message_bytes: int = 4 * 1024 * 1024
    in_flight_messages: int = 10_000
    """How many messages of `send_nowait` may be under way."""
    in_flight_bytes: int = 64 * 1024 * 1024

    trace_linger_s: float = 0.5
    """How long a trace record waits for others to go out with."""
    trace_message_bytes: int = 118_000
    """Of trace in one message, at most."""
    trace_records: int = 10_000
    """How many may wait to be sent; what comes then is dropped (Apache: 1024)."""
    trace_timeout_s: float = 5.0
    """For sending a trace message, all attempts together."""

    transaction_check_timeout_s: float = 60.0
    """For one run of a transaction_checker; then the answer is UNKNOWN, and the broker asks again."""

    pull_batch: int = 32
    """Messages asked for in one pull."""
    suspend_s: float = 15.0
    """How long a broker may hold a pull until something arrives."""
    pull_timeout_s: float = 30.0
    pull_retry_s: float = 1.0
    """Before the next pull after one that failed."""
    local_retry_s: float = 5.0
    """Before a failed message that its broker would not take back is handed out again."""
    send_back_timeout_s: float = 5.0

    lock_renewal_s: float = 20.0
    """How often the queue locks of ordered consumption are renewed; brokers keep them for 60 s."""
    lock_valid_s: float = 30.0
    """How long after its renewal a lock is relied on."""
    lock_timeout_s: float = 1.0
    lock_retry_s: float = 1.0
    """Before a lock is asked for again that another member holds (Apache: at the next rebalance)."""
    surrender_s: float = 1.0
    """How long a rebalance, or leaving the group, waits for an ordered queue's message to be settled."""

    def __post_init__(self) -> None:
        """Raise ConfigError for a number that nothing could work with: a period of 0 would never end."""
        for name in self.__struct_fields__:
            value = getattr(self, name)
            if name in _YES_OR_NO:
                if not isinstance(value, bool):
                    raise ConfigError(f"Settings: {name}={value!r}: expected True or False")
                continue
            if name == "retry_codes":
                if not isinstance(value, frozenset) or not all(isinstance(code, int) for code in value):
                    raise ConfigError(f"Settings: {name}={value!r}: expected a frozenset of response codes")
                continue
            kind, types = ("seconds", (int, float)) if name.endswith("_s") else ("a whole number", (int,))
            bound = "0 or more" if name in _MAY_BE_ZERO else "above 0"
            is_number = isinstance(value, types) and not isinstance(value, bool) and math.isfinite(value)
            if not is_number or value < 0 or (value == 0 and name not in _MAY_BE_ZERO):
                raise ConfigError(f"Settings: {name}={value!r}: expected {kind}, {bound}")
