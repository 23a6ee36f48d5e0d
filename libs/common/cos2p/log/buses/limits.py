"""What a topic takes: the checks that every bus makes before it writes anything."""

from collections.abc import Sequence

from cos2p.errors import BusError, RecordTooLargeError
from cos2p.log.bus import NewRecord, TopicSpec


def check(spec: TopicSpec, records: Sequence[NewRecord]) -> None:
    """Refuse an append that its topic can't hold.

    Raises:
        RecordTooLargeError: a value is over the topic's limit.
        BusError: a record without a key, for a compacted topic.
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
