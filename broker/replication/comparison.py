"""Whether a slave's log is the master's, seen by its newest record (store.md §9).

Apache never looks: a slave whose log went another way once, or that belongs to another broker, copies on
as long as the lengths happen to fit.
"""

from __future__ import annotations

from pymq.broker.replication.slave import LogsDiffer
from pymq.errors import ResponseError
from pymq.protocol.codes import ResponseCode
from pymq.protocol.headers.messaging import ViewMessageRequest
from pymq.transport.pool import Pool

_MEND = (
    "nothing is copied. If the master is right, stop this slave, move its store folder away and start it"
    " again: it then copies the whole log; else look at both folders with `pymq store verify` first"
)


async def compare(pool: Pool, master_address: str, newest: tuple[int, bytes] | None) -> None:
    """Compare this log's newest record, its physical offset and bytes, with the master's in its place.

    Any master answers that, Apache's too (VIEW_MESSAGE_BY_ID). LogsDiffer when it is another one;
    TransportError, ResponseError when the master cannot say now.
    """
    if newest is None:
        return
    offset, record = newest
    accept = (ResponseCode.SUCCESS, ResponseCode.SYSTEM_ERROR)
    reply = await pool.call(master_address, ViewMessageRequest(offset), accept=accept)
    if reply.code == ResponseCode.SUCCESS:
        if reply.body == record:
            return
        what = (
            f"the message at {offset}, the newest here, is another one in the log of master {master_address}"
        )
    elif "find" in reply.remark:
        what = f"master {master_address} has no message at {offset}, where this log's newest stands"
    else:
        raise ResponseError(reply.code, reply.remark, master_address)
    raise LogsDiffer(f"{what}: {_MEND}")
