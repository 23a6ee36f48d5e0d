"""A bus that signs the records of some topics before it appends them.

Invariants:
A signer's sequence numbers rise in the order of the log.
So signed records are appended one call at a time.
A number is never used twice, even after a restart.
Numbers begin at the clock's microseconds.
Records of other topics pass unchanged.
"""

import asyncio
from collections.abc import Collection, Sequence
from dataclasses import replace

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from cos2p.clock import Clock
from cos2p.log.bus import Bus, NewRecord
from cos2p.log.buses.passing import PassingBus
from cos2p.signing.envelope import (
    KEY_HEADER,
    SEQUENCE_BYTES,
    SEQUENCE_HEADER,
    SIGNATURE_HEADER,
    key_id,
    signed_bytes,
)
from cos2p.signing.keys import public_bytes

MICROSECONDS = 1_000_000


class SigningBus(PassingBus):
    """A bus that signs the records of these topics (full names); see `cos2p.log.bus.Bus`.

    The clock gives the first sequence number.
    """

    def __init__(
        self, inner: Bus, topics: Collection[str], key: Ed25519PrivateKey, clock: Clock
    ) -> None:
        super().__init__(inner)
        self._topics, self._key, self._clock = topics, key, clock
        self._key_id = key_id(public_bytes(key))
        self._sequence = 0
        self._one_at_a_time = asyncio.Lock()

    async def append(self, topic: str, partition: int, records: Sequence[NewRecord]) -> list[int]:
        """See `Bus.append`."""
        if topic not in self._topics:
            return await self._inner.append(topic, partition, records)
        async with self._one_at_a_time:
            signed = [self._signed(topic, record) for record in records]
            return await self._inner.append(topic, partition, signed)

    def _signed(self, topic: str, record: NewRecord) -> NewRecord:
        # Microseconds keep the numbers above those that this signer used before a restart.
        self._sequence = max(self._sequence + 1, int(self._clock.now() * MICROSECONDS))
        data = signed_bytes(
            topic, self._sequence, record.key, record.value, record.headers, self._key_id
        )
        own = {
            KEY_HEADER: self._key_id,
            SEQUENCE_HEADER: self._sequence.to_bytes(SEQUENCE_BYTES, "big"),
            SIGNATURE_HEADER: self._key.sign(data),
        }
        return replace(record, headers={**record.headers, **own})
