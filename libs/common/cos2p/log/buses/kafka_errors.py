"""Finds the cause when a Kafka cluster can't be reached.

aiokafka raises "Unable to bootstrap" for every cause, so this module tests the brokers.
It makes one connection with the client's arguments and examines the error.
If the error is ambiguous (a listener just hangs up), it tests whether the port speaks TLS.

Invariant: a cause is one line, names host and port, and never shows a password.
"""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass

from aiokafka.conn import create_conn
from aiokafka.errors import (
    IllegalSaslStateError,
    IncompatibleBrokerVersion,
    KafkaError,
    SaslAuthenticationFailed,
    UnsupportedSaslMechanismError,
)
from aiokafka.protocol.metadata import MetadataRequest

from cos2p.log.buses.kafka_access import Access, host_port

PROBE_S = 5.0
"""Time limit of one test of a broker."""


@dataclass(frozen=True)
class Cause:
    """Why there is no connection; `final` if another attempt needs other settings to succeed."""

    text: str
    final: bool


REFUSED = Cause("connection refused: no broker listens there", False)
UNRESOLVED = Cause("the name does not resolve", False)
TIMED_OUT = Cause("timed out", False)
HUNG_UP = Cause("the broker closed the connection", False)
TLS_WANTED = Cause(
    "the broker uses TLS, this client does not (COS2P_KAFKA_SECURITY=SSL or SASL_SSL)", True
)
TLS_UNWANTED = Cause(
    "this client uses TLS, the broker does not (COS2P_KAFKA_SECURITY=PLAINTEXT or SASL_PLAINTEXT)",
    True,
)
PASSWORD_WANTED = Cause(
    "the broker asks for a user and password (COS2P_KAFKA_SECURITY=SASL_PLAINTEXT or SASL_SSL)",
    True,
)
PASSWORD_UNWANTED = Cause("this port of the broker accepts no user and password", True)
CERTIFICATE_WANTED = Cause("a client certificate is required (COS2P_KAFKA_CERT_FILE)", True)
CERTIFICATE_REFUSED = Cause(
    "the broker does not accept our client certificate: it has expired, or is of a CA that the "
    "broker does not trust (COS2P_KAFKA_CERT_FILE)",
    True,
)


async def find_cause(access: Access) -> Cause | None:
    """Test every bootstrap broker; None if one answers, so that another attempt may succeed."""
    found: list[tuple[str, Cause]] = []
    for host, port in access.hosts:
        cause = await _look(access, host, port)
        if cause is None:
            return None
        found.append((host_port(host, port), cause))
    texts = {cause.text for _, cause in found}
    final = any(cause.final for _, cause in found)
    if len(texts) == 1:
        return Cause(f"{access.address}: {texts.pop()}", final)
    return Cause("; ".join(f"{address}: {cause.text}" for address, cause in found), final)


async def _look(access: Access, host: str, port: int) -> Cause | None:
    arguments = {k: v for k, v in access.client.items() if k != "bootstrap_servers"}
    connection = None
    try:
        async with asyncio.timeout(PROBE_S):
            connection = await create_conn(
                host, port, request_timeout_ms=int(PROBE_S * 1000), **arguments
            )
            await connection.send(MetadataRequest([], False))
            return None
    except (KafkaError, OSError, TimeoutError) as error:
        return await _read(error, access, (host, port), greeted=connection is not None)
    except KeyError:
        # aiokafka's SCRAM step raises it if the broker's answer lacks the expected fields.
        return wrong_password(access)
    finally:
        if connection is not None:
            with contextlib.suppress(OSError, TimeoutError):
                await asyncio.wait_for(connection.close(), PROBE_S)


async def _read(
    error: BaseException, access: Access, place: tuple[str, int], *, greeted: bool
) -> Cause:
    chain = list(_chain(error))
    for link in chain:
        cause = _known(link, access)
        if cause is not None:
            return cause
    tls_there = await _speaks_tls(*place)
    if tls_there is None:
        return HUNG_UP
    if access.tls != tls_there:
        return TLS_WANTED if tls_there else TLS_UNWANTED
    if greeted and access.user is None:
        return PASSWORD_WANTED
    if access.tls and not greeted:
        return CERTIFICATE_REFUSED if access.has_certificate else CERTIFICATE_WANTED
    hung_up = any(isinstance(link, (EOFError, ConnectionError)) for link in chain)
    return HUNG_UP if hung_up else Cause(one_line(error), False)


def _known(link: BaseException, access: Access) -> Cause | None:
    """The cause if this error in the chain identifies it with certainty; else None."""
    if isinstance(link, ssl.SSLCertVerificationError):
        return Cause(
            f"certificate not trusted: {link.verify_message.rstrip('.')} (COS2P_KAFKA_CA_FILE)",
            True,
        )
    if isinstance(link, ssl.SSLError) and "CERTIFICATE_REQUIRED" in (link.reason or ""):
        return CERTIFICATE_WANTED
    if isinstance(link, UnsupportedSaslMechanismError):
        mechanism = access.client.get("sasl_mechanism")
        return Cause(
            f"the broker does not accept {mechanism} passwords (COS2P_KAFKA_MECHANISM)", True
        )
    if isinstance(link, IllegalSaslStateError):
        return PASSWORD_UNWANTED
    if isinstance(link, SaslAuthenticationFailed):
        return wrong_password(access)
    if isinstance(link, IncompatibleBrokerVersion):
        return Cause(f"the broker's version is not supported: {one_line(link)}", True)
    if isinstance(link, socket.gaierror):
        return UNRESOLVED
    if isinstance(link, TimeoutError):
        return TIMED_OUT
    # asyncio joins the errors of several addresses of one name in one OSError's text.
    refused = isinstance(link, ConnectionRefusedError) or "[Errno 111]" in str(link)
    return REFUSED if isinstance(link, OSError) and refused else None


def wrong_password(access: Access) -> Cause:
    """The cause "wrong user or password", with the user's name."""
    return Cause(f"wrong user or password (user {access.user!r})", True)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


async def _speaks_tls(host: str, port: int) -> bool | None:
    """Whether any TLS handshake gets an answer; None if the port no longer answers."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    writer = None
    try:
        async with asyncio.timeout(PROBE_S):
            _, writer = await asyncio.open_connection(host, port, ssl=context)
    except ssl.SSLError as error:
        # A TLS alert is an answer in TLS, too; a listener without TLS gives one of these two.
        return (error.reason or "") not in ("WRONG_VERSION_NUMBER", "UNEXPECTED_EOF_WHILE_READING")
    except ConnectionResetError:
        return False
    except (OSError, TimeoutError):
        return None
    finally:
        if writer is not None:
            writer.transport.abort()
    return True


def one_line(error: BaseException) -> str:
    """An error's text without line breaks; its name if it has none."""
    return " ".join(str(error).split())[:300] or type(error).__name__
