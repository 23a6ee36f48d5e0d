"""The checks that every bus makes on records before it writes any of them."""

from collections.abc import Sequence

from cos2p.errors import BusError, RecordTooLargeError
from cos2p.log.bus import NewRecord, TopicSpec


def check(spec: TopicSpec, records: Sequence[NewRecord]) -> None:
    """Refuse an append whose records do not suit the topic.

    Raises:
        RecordTooLargeError: a value exceeds the topic's limit.
        BusError: a record for a compacted topic has no key.
    """
    for new in records:
        if len(new.value) > spec.record_bytes_max:
            raise RecordTooLargeError(
                f"a record of {len(new.value)} bytes is over {spec.name}'s limit of "
                f"{spec.record_bytes_max}"
            )
        if spec.compacted and not new.key:
            raise BusError(
                f"a record for {spec.name} has no key: in a compacted topic each has one"
            )
