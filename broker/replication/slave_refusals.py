"""What a slave does not do (semantics.md §9), and what it says then."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pymq.errors import ResponseError
from pymq.protocol.codes import RequestCode, ResponseCode
from pymq.protocol.headers.administration import (
    CreateTopicRequest,
    DeleteSubscriptionGroupRequest,
    DeleteTopicInBrokerRequest,
    UpdateAndCreateSubscriptionGroupRequest,
)
from pymq.transport.dispatch import Answer, Request, Row, row


def _refuse(request: Request[Any]) -> Answer:
    raise ResponseError(
        ResponseCode.SYSTEM_ERROR,
        "Can't modify topic or subscription group from slave broker, please execute it from master broker.",
    )


def _leave_to_master(request: Request[Any]) -> Answer:
    """Do nothing, and say yes: `mqadmin deleteTopic` asks slaves too, and ends at the first no.

    A 4.9.4 slave refuses, so that no topic of a cluster with slaves can be deleted (semantics.md, Part E 14).
    """
    return Answer()


def refusals() -> Iterable[tuple[RequestCode, Row]]:
    """Rows that replace those of a master: what changes tables is the master's to do."""
    refused = CreateTopicRequest, UpdateAndCreateSubscriptionGroupRequest, DeleteSubscriptionGroupRequest
    return [
        *(row(header, _refuse) for header in refused),
        row(DeleteTopicInBrokerRequest, _leave_to_master),
    ]
