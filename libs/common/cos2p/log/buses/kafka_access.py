"""Addresses, TLS and passwords of a Kafka cluster, as aiokafka's arguments.

Invariants:
A missing or wrong file is a `SettingsError` before any connection is made.
A password file that changes later is read again.
A password file that becomes unreadable or empty leaves the password unchanged.
The password leaves this module only as a client's argument.
No repr shows it.
"""

import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cos2p.errors import SettingsError
from cos2p.reloaded_file import ReloadedFile
from cos2p.settings import BusSettings


@dataclass(frozen=True)
class Access:
    """The connection arguments that all clients share.

    Attributes:
        hosts: host and port of each bootstrap broker.
        has_certificate: whether clients show a client certificate.
        user: the SASL user, or None.
        password: returns the current password; None if clients show none.
        fixed: client arguments that do not change.
    """

    hosts: tuple[tuple[str, int], ...]
    tls: bool
    has_certificate: bool
    user: str | None
    password: Callable[[], str] | None = field(repr=False)
    fixed: dict[str, Any] = field(repr=False)

    @property
    def client(self) -> dict[str, Any]:
        """Keyword arguments for every client of aiokafka."""
        secret = {} if self.password is None else {"sasl_plain_password": self.password()}
        return self.fixed | secret

    @property
    def address(self) -> str:
        """All hosts as HOST:PORT,HOST:PORT."""
        return ",".join(host_port(host, port) for host, port in self.hosts)


def host_port(host: str, port: int) -> str:
    """One address as text; IPv6 in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def access_from(bootstrap: str, settings: BusSettings) -> Access:
    """Check the settings and turn them into connection arguments.

    `bootstrap` is HOST:PORT[,HOST:PORT...].

    Raises:
        SettingsError: an address, file, user or password is missing or wrong.
    """
    security = settings.kafka_security
    hosts = tuple(_host(part) for part in bootstrap.split(","))
    client: dict[str, Any] = {
        "bootstrap_servers": [host_port(host, port) for host, port in hosts],
        "security_protocol": security,
    }
    tls = security in ("SSL", "SASL_SSL")
    if tls:
        client["ssl_context"] = _tls(settings)
    user, password = None, None
    if security.startswith("SASL"):
        if not settings.kafka_username:
            raise SettingsError(f"COS2P_KAFKA_SECURITY={security} needs COS2P_KAFKA_USERNAME")
        client["sasl_mechanism"] = settings.kafka_mechanism
        client["sasl_plain_username"] = settings.kafka_username
        user, password = settings.kafka_username, _password(settings)
    has_certificate = tls and settings.kafka_cert_file is not None
    return Access(hosts, tls, has_certificate, user, password, client)


def _host(text: str) -> tuple[str, int]:
    host, _, port = text.strip().rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isdigit() or not 0 < int(port) < 65_536:
        raise SettingsError(
            f"{text.strip()!r} is not a Kafka address: use HOST:PORT[,HOST:PORT...]"
        )
    return host, int(port)


def _tls(settings: BusSettings) -> ssl.SSLContext:
    ca, cert, key = settings.kafka_ca_file, settings.kafka_cert_file, settings.kafka_key_file
    for name, path in (("CA", ca), ("CERT", cert), ("KEY", key)):
        if path is not None:
            _readable(f"COS2P_KAFKA_{name}_FILE", path)
    if key is not None and cert is None:
        raise SettingsError("COS2P_KAFKA_KEY_FILE is set without COS2P_KAFKA_CERT_FILE")
    try:
        context = ssl.create_default_context(cafile=ca)
    except (ssl.SSLError, OSError) as error:
        raise SettingsError(f"COS2P_KAFKA_CA_FILE={ca} holds no certificates: {error}") from error
    if cert is not None:
        try:
            # Without this callback, openssl would ask for a password on the terminal.
            context.load_cert_chain(cert, key, password=lambda: b"")
        except (ssl.SSLError, OSError) as error:
            raise SettingsError(
                f"COS2P_KAFKA_CERT_FILE={cert} and its key don't form a pair: {error}"
            ) from error
    return context


def _password(settings: BusSettings) -> Callable[[], str]:
    if settings.kafka_password_file is not None:
        return ReloadedFile(settings.kafka_password_file, _read_password)
    given = settings.kafka_password
    if given is None:
        raise SettingsError(
            f"COS2P_KAFKA_SECURITY={settings.kafka_security} needs "
            "COS2P_KAFKA_PASSWORD_FILE or COS2P_KAFKA_PASSWORD"
        )
    if not given.get_secret_value():
        raise SettingsError("COS2P_KAFKA_PASSWORD is empty")
    return given.get_secret_value


def _read_password(file: Path) -> str:
    name = "COS2P_KAFKA_PASSWORD_FILE"
    _readable(name, file)
    try:
        text = file.read_text(encoding="utf-8").rstrip("\r\n")
    except UnicodeDecodeError:
        raise SettingsError(f"{name}={file} is not text in UTF-8") from None
    if not text:
        raise SettingsError(f"{name}={file} is empty")
    return text


def _readable(name: str, path: Path) -> None:
    try:
        with path.open("rb"):
            pass
    except OSError as error:
        raise SettingsError(f"{name}={path} can't be read: {error.strerror}") from error
