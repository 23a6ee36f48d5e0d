"""Private keys of signers, and the planner's register of public keys.

A register is a text file with one key a line: ROLE NAME KEY.
ROLE is worker, evaluator or operator.
NAME is the COS2P_WORKER_ID of a worker or an evaluator; an operator may have any name.
KEY is the public key's 32 bytes as base64.
`#` begins a comment.
A name may have several keys, so that a new key can replace an old one during a run.

Invariants:
Private keys are read from files and leave this module only as a signer.
A register that changes is read again.
A register that becomes unreadable leaves the keys unchanged.
"""

import base64
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from cos2p.errors import SettingsError, StorageError
from cos2p.reloaded_file import ReloadedFile
from cos2p.signing.envelope import key_id

SignerRole = Literal["worker", "evaluator", "operator"]
SIGNER_ROLES: tuple[SignerRole, ...] = get_args(SignerRole)


@dataclass(frozen=True)
class Registered:
    """One line of the register."""

    role: SignerRole
    name: str
    key: Ed25519PublicKey


def new_key(file: Path) -> Ed25519PrivateKey:
    """Make a private key and write it to a file that only its owner may read.

    Raises:
        SettingsError: the file exists already.
        StorageError: the file can't be written.
    """
    key = Ed25519PrivateKey.generate()
    text = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    try:
        with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:
            out.write(text)
    except FileExistsError:
        raise SettingsError(f"{file} exists already: a key is never overwritten") from None
    except OSError as error:
        raise StorageError(f"can't write {file}: {error.strerror}") from error
    return key


def private_key(file: Path) -> Ed25519PrivateKey:
    """Read the private key in a PEM file.

    Raises:
        SettingsError: the file holds no such key; the text quotes nothing from the file.
    """
    try:
        found = serialization.load_pem_private_key(file.read_bytes(), password=None)
    except OSError as error:
        raise SettingsError(f"can't read the signing key {file}: {error.strerror}") from error
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise SettingsError(f"{file} holds no unencrypted private key in PEM form") from None
    if not isinstance(found, Ed25519PrivateKey):
        raise SettingsError(f"{file} holds a key of another kind: `cos2p keys new` makes Ed25519")
    return found


def public_bytes(key: Ed25519PrivateKey | Ed25519PublicKey) -> bytes:
    """The public key's 32 bytes."""
    public = key.public_key() if isinstance(key, Ed25519PrivateKey) else key
    return public.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)


def register_line(role: SignerRole, name: str, key: Ed25519PrivateKey) -> str:
    """The register line that admits a key."""
    return f"{role} {name} {base64.b64encode(public_bytes(key)).decode()}"


def read_register(file: Path) -> dict[bytes, Registered]:
    """Read the keys in a register's file, by key id.

    Raises:
        SettingsError: the file can't be read, or a line is wrong; the text gives its number.
    """
    try:
        text = file.read_text("utf-8")
    except OSError as error:
        raise SettingsError(f"can't read the register of keys {file}: {error.strerror}") from error
    except UnicodeDecodeError:
        raise SettingsError(f"the register of keys {file} is not text in UTF-8") from None
    return parse_register(text, str(file))


def parse_register(text: str, where: str) -> dict[bytes, Registered]:
    """Parse the keys in a register's text, by key id; `where` names the register in errors.

    Raises:
        SettingsError: a line is wrong; the text gives its number.
    """
    found: dict[bytes, Registered] = {}
    for number, raw in enumerate(text.splitlines(), 1):
        words = raw.partition("#")[0].split()
        if not words:
            continue
        try:
            identity, registered = _registered(words)
        except ValueError as error:
            raise SettingsError(f"{where}, line {number}: {error}") from None
        if identity in found:
            raise SettingsError(f"{where}, line {number}: this key is registered on another line")
        found[identity] = registered
    return found


def _registered(words: Sequence[str]) -> tuple[bytes, Registered]:
    if len(words) != 3:
        raise ValueError("not ROLE NAME KEY")
    word, name, encoded = words
    role = role_named(word)
    if role is None:
        raise ValueError(f"{word!r} is not a role ({', '.join(SIGNER_ROLES)})")
    try:
        public = base64.b64decode(encoded, validate=True)
        return key_id(public), Registered(role, name, Ed25519PublicKey.from_public_bytes(public))
    except ValueError:
        raise ValueError("no public key of 32 bytes in base64") from None


def role_named(word: str) -> SignerRole | None:
    """The role with this name; None if there is none."""
    return next((role for role in SIGNER_ROLES if role == word), None)


class Register:
    """A register in a file that is read again when it changes.

    `warn` receives the reason why a changed register is ignored.

    Raises:
        SettingsError: at the start, the file can't be read or holds a wrong line.
    """

    def __init__(self, file: Path, warn: Callable[[str], None] = lambda _: None) -> None:
        self._keys = ReloadedFile(
            file, read_register, lambda why: warn(f"the register keeps its former keys: {why}")
        )

    def find(self, identity: bytes) -> Registered | None:
        """The register line of the key with this id; None if there is none."""
        return self._keys().get(identity)
