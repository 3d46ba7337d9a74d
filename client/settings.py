"""The client's numbers in one place: Apache's unless said otherwise (semantics.md §11–13)."""

from __future__ import annotations

import msgspec


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
    """Further attempts after the first one has failed."""
    retry_pause_s: float = 0.1
    """Before a second attempt at the same broker; doubled before the third (Apache: none)."""
    suspect_s: float = 10.0
    """How long a broker that could not be reached is passed over while others can take the message."""
    compress_from_bytes: int = 4096
    max_message_bytes: int = 4 * 1024 * 1024
    in_flight_messages: int = 10_000
    """How many messages of `send_nowait` may be under way."""
    in_flight_bytes: int = 64 * 1024 * 1024

    pull_batch: int = 32
    """Messages asked for in one pull."""
    suspend_s: float = 15.0
    """How long a broker may hold a pull until something arrives."""
    pull_timeout_s: float = 30.0
    pull_retry_s: float = 1.0
    """Before the next pull after one that failed."""
    max_span: int = 2000
    """Queue offsets between the oldest unsettled and the newest message of a queue, at most."""
    local_retry_s: float = 5.0
    """Before a failed message that its broker would not take back is handed out again."""
    send_back_timeout_s: float = 5.0
