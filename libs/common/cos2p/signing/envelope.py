"""What a signature covers, and the headers that carry it.

A signature binds a record's bytes, key and message to its topic, the signer's key and a sequence
number, so that it fits no other place; the number rises with every record of a signer, so that a
record said again is known as such. Ed25519 (RFC 8032), by the cryptography package.

Invariant: the signed bytes are canonical: one list in msgpack, of fixed length and types.
"""

from collections.abc import Mapping

import msgpack
from blake3 import blake3

from cos2p.log.bus import Buffer
from cos2p.log.codec import NAME_HEADER, VERSION_HEADER

SIGNATURE_HEADER = "cos2p-signature"
KEY_HEADER = "cos2p-key"
SEQUENCE_HEADER = "cos2p-sequence"
SEQUENCE_BYTES = 8
KEY_ID_BYTES = 8
PURPOSE = "cos2p signed record, version 1"


def key_id(public: bytes) -> bytes:
    """The short name of a public key of 32 bytes."""
    return blake3(public).digest(length=KEY_ID_BYTES)


def signed_bytes(
    topic: str, sequence: int, key: bytes, value: Buffer, headers: Mapping[str, bytes], by: bytes
) -> bytes:
    """What is signed.

    Args:
        topic: full name.
        sequence: the record's number among its signer's.
        key: the record's.
        value: likewise.
        headers: likewise; those that name the message count.
        by: id of the signer's key.
    """
    named = [bytes(headers.get(name, b"")) for name in (NAME_HEADER, VERSION_HEADER)]
    packed: bytes = msgpack.packb(
        [PURPOSE, topic, by, sequence, bytes(key), *named, bytes(value)], use_bin_type=True
    )
    return packed
