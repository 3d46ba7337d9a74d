"""What `pymq trace` does."""

from __future__ import annotations

import pymq
from pymq.cli.messages import run_client
from pymq.cli.store_output import to_json
from pymq.cli.trace_output import timeline
from pymq.errors import PymqError
from pymq.protocol.trace_data import TRACE_TOPIC

_TIMEOUT_S = 10.0

_HOW = "only clients that trace are seen: pymq.Client(..., trace=True), in Java enableMsgTrace=true"


def trace(namesrv: str, key: str, topic: str, as_json: bool) -> None:
    """Print the traces of a message, or of all with a key. Raises PymqError, also when there are none."""

    async def story() -> None:
        async with pymq.Client(namesrv) as mq:
            try:
                found = await mq.traces(key, topic=topic, timeout=_TIMEOUT_S)
            except pymq.RouteNotFound as error:
                servers = ", ".join(error.name_servers)
                made = ". A broker makes the topic with traceTopicEnable=true" if topic == TRACE_TOPIC else ""
                raise PymqError(f"no topic {topic} (name servers asked: {servers}); {_HOW}{made}") from None
            except TimeoutError:
                raise PymqError(
                    f"the brokers of topic {topic} did not answer within {_TIMEOUT_S:g} s"
                ) from None
        if not found:
            raise PymqError(
                f"{topic} tells nothing of {key}; {_HOW}. A trace may come a second after what it tells"
            )
        if as_json:
            print(to_json(found))
        else:
            print("\n\n".join("\n".join(timeline(each)) for each in found))

    run_client(story())
