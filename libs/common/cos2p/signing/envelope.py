"""What a signature covers, and the headers that carry it.

A signature binds a record's bytes, key and message to three things.
These are its topic, the signer's key and a sequence number.
So the signature fits no other place in the log.
The number rises with every record of a signer, so that a repeated record is recognised.
The signature scheme is Ed25519 (RFC 8032), from the cryptography package.

Invariant: the signed bytes are canonical.
They are one msgpack list of fixed length and types.
"""

from collections.abc import Mapping

import msgpack
from blake3 import blake3

from cos2p.log.codec import NAME_HEADER, VERSION_HEADER
from cos2p.model.payload import Buffer

SIGNATURE_HEADER = "cos2p-signature"
KEY_HEADER = "cos2p-key"
SEQUENCE_HEADER = "cos2p-sequence"
SEQUENCE_BYTES = 8
KEY_ID_BYTES = 8
PURPOSE = "cos2p signed record, version 1"


def key_id(public: bytes) -> bytes:
    """The id of a public key of 32 bytes."""
    return blake3(public).digest(length=KEY_ID_BYTES)


def signed_bytes(
    topic: str, sequence: int, key: bytes, value: Buffer, headers: Mapping[str, bytes], by: bytes
) -> bytes:
    """The bytes that a signature covers: of the headers, only those that name the message.

    `sequence` is the record's number among its signer's records, `by` the id of the signer's key.
    """
    named = [bytes(headers.get(name, b"")) for name in (NAME_HEADER, VERSION_HEADER)]
    packed: bytes = msgpack.packb(
        [PURPOSE, topic, by, sequence, bytes(key), *named, bytes(value)], use_bin_type=True
    )
    return packed
