"""The topics of transactions, and the group whose offsets in them are a broker's progress (wire.md §6.4)."""

from __future__ import annotations

from typing import Final

HALF_TOPIC: Final = "RMQ_SYS_TRANS_HALF_TOPIC"
"""Where transactional messages wait."""
OP_TOPIC: Final = "RMQ_SYS_TRANS_OP_HALF_TOPIC"
"""Which of them have ended."""
CHECK_MAX_TOPIC: Final = "TRANS_CHECK_MAX_TIME_TOPIC"
"""Those that nobody has ended."""
TRANS_GROUP: Final = "CID_RMQ_SYS_TRANS"
