"""What all bodies have in common: a struct that is a JSON object on the wire (wire.md §5)."""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta

from pymq.protocol import tolerant_json
from pymq.protocol.tolerant_json import Json

Int = Annotated[int, Meta(ge=-(2**31), le=2**31 - 1)]
"""A Java int: 32 bits, signed. In JSON bodies "1" and 1.0 are read as 1."""

Long = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
"""A Java long: 64 bits, signed."""

B = TypeVar("B", bound="Body")


class Body(msgspec.Struct, rename="camel"):
    """Base of the bodies. Members are camelCase on the wire; unknown ones are ignored, null is absent."""

    def encode(self) -> bytes:
        """The body as Apache writes it: compact, members sorted."""
        return tolerant_json.encode(self)

    @classmethod
    def decode(cls: type[B], data: bytes) -> B:
        """Read a body. Raises BodyError, which names the position or the member."""
        return tolerant_json.decode(data, cls, _message_queue)


class MessageQueue(msgspec.Struct, rename="camel", frozen=True, order=True):
    """One queue of a topic on one broker: also the key of many maps. Sorts as in Java."""

    topic: str
    broker_name: str
    queue_id: int


def _message_queue(members: dict[str, Json]) -> Any:
    """The one kind of object that stands as a map key; what is none matches no typed map later."""
    try:
        return msgspec.convert(members, MessageQueue, strict=False)
    except msgspec.ValidationError:
        return tolerant_json.members(members)
