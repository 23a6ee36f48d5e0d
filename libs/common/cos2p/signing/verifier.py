"""Checks who wrote a record of `fleet`, and that it is not a repeat.

A record is accepted only if all of these hold:
- Its signature fits its bytes, topic and number.
- Its key is registered.
- The key's role may write such a message.
- A worker or evaluator writes in its own name.
- Its number is above all that its signer has used.

Invariants:
A refused record changes nothing here.
One verifier serves one reading of the log, from its start or from a snapshot.
So every reading accepts the same records.
"""

from collections.abc import Callable

from cryptography.exceptions import InvalidSignature

from cos2p.errors import SignatureError
from cos2p.log import messages as m
from cos2p.log.bus import Record
from cos2p.log.messages import Message
from cos2p.signing.envelope import (
    KEY_HEADER,
    SEQUENCE_BYTES,
    SEQUENCE_HEADER,
    SIGNATURE_HEADER,
    signed_bytes,
)
from cos2p.signing.keys import Registered, SignerRole

Find = Callable[[bytes], Registered | None]
"""Returns the register line of a key by its id; None if there is none."""


class Verifier:
    """Accepts or refuses the records of a topic; call it in the log's order.

    Args:
        find: finds the register line of a key.
        sequences: last number of each signer, by "role name"; the verifier updates it.
    """

    def __init__(self, find: Find, sequences: dict[str, int] | None = None) -> None:
        self._find = find
        self._sequences = {} if sequences is None else sequences

    def __call__(self, record: Record, message: Message) -> None:
        """Accept the record, or refuse it by an error.

        Raises:
            SignatureError: it is refused; the text names the claimed author and the reason.
        """
        kind = type(message).__name__
        claimed = f"{kind} of {author_of(message)}"
        by, sequence, signature = _headers(record, claimed)
        known = self._find(by)
        if known is None:
            raise SignatureError(f"{claimed}: its key {by.hex()} is not registered")
        data = signed_bytes(record.topic, sequence, record.key, record.value, record.headers, by)
        try:
            known.key.verify(signature, data)
        except InvalidSignature:
            raise SignatureError(
                f"{claimed}: the signature of {known.name} does not match the record"
            ) from None
        if known.role != role_of(message):
            raise SignatureError(
                f"{claimed}: {known.name} is a {known.role}, which must not send that"
            )
        if known.role != "operator" and known.name != author_of(message):
            raise SignatureError(f"{claimed}: sent by {known.name} in another's name")
        signer = f"{known.role} {known.name}"
        last = self._sequences.get(signer, -1)
        if sequence <= last:
            raise SignatureError(
                f"{claimed}: replayed, or the clock of {known.name} went back "
                f"(number {sequence} after {last})"
            )
        self._sequences[signer] = sequence


def role_of(message: Message) -> SignerRole:
    """The role that may write this message."""
    if isinstance(message, m.RunRequested | m.StopRequested | m.AdmitRequested):
        return "operator"
    return "evaluator" if isinstance(message, m.Evaluated) else "worker"


def author_of(message: Message) -> str:
    """The name of the message's claimed author."""
    for name in ("worker_id", "evaluator_id"):
        if hasattr(message, name):
            return str(getattr(message, name))
    return "an operator"


def _headers(record: Record, claimed: str) -> tuple[bytes, int, bytes]:
    try:
        by, number, signature = (
            bytes(record.headers[name]) for name in (KEY_HEADER, SEQUENCE_HEADER, SIGNATURE_HEADER)
        )
    except KeyError:
        raise SignatureError(f"{claimed}: not signed") from None
    if len(number) != SEQUENCE_BYTES:
        raise SignatureError(f"{claimed}: its sequence number is not a number")
    return by, int.from_bytes(number, "big"), signature
