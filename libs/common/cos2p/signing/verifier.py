"""Checking who said a record of `fleet`, and that it is not said again.

Invariants: a record is accepted only if its signature fits its bytes, topic and number, its key is
registered, the key's role may say such a message, a worker speaks for itself alone, and its number
is above all that its name has used; a refused record changes nothing here. One verifier serves one
reading of the log, from its start or from a snapshot, so that every reading comes to the same.
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
"""Who has a key, by its id."""


class Verifier:
    """Call it with each record of a topic and its message, in the log's order.

    Args:
        find: who has a key.
        sequences: the last number that each signer has used, by "role name"; it is kept up to date.
    """

    def __init__(self, find: Find, sequences: dict[str, int] | None = None) -> None:
        self._find = find
        self._sequences = {} if sequences is None else sequences

    def __call__(self, record: Record, message: Message) -> None:
        """Accept the record.

        Raises:
            SignatureError: it is refused; the text says who is said to have said it, and why not.
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
                f"{claimed}: the signature of {known.name} does not fit the record"
            ) from None
        if known.role != role_of(message):
            raise SignatureError(f"{claimed}: {known.name} is a {known.role}, who can't say that")
        if known.role != "operator" and known.name != author_of(message):
            raise SignatureError(f"{claimed}: said by {known.name} in another's name")
        signer = f"{known.role} {known.name}"
        last = self._sequences.get(signer, -1)
        if sequence <= last:
            raise SignatureError(
                f"{claimed}: replayed, or the clock of {known.name} went back "
                f"(number {sequence} after {last})"
            )
        self._sequences[signer] = sequence


def role_of(message: Message) -> SignerRole:
    """Whose message it is."""
    if isinstance(message, m.RunRequested | m.StopRequested | m.AdmitRequested):
        return "operator"
    return "evaluator" if isinstance(message, m.Evaluated) else "worker"


def author_of(message: Message) -> str:
    """In whose name it is said."""
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
        raise SignatureError(f"{claimed}: its sequence number is not one")
    return by, int.from_bytes(number, "big"), signature
