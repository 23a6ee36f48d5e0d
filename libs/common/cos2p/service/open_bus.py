"""Opens the bus at an address.

Invariant: the Kafka client is imported only if an address needs it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cos2p.clock import Clock
from cos2p.errors import SettingsError
from cos2p.log.bus import Bus
from cos2p.log.topics import FLEET, HEARTBEATS
from cos2p.settings import BusSettings


def open_bus(settings: BusSettings, clock: Clock) -> Bus:
    """Make the bus that `settings.bus` names; it connects at first use.

    It signs its records if the settings name a signing key.

    Raises:
        SettingsError: the address has no known scheme, or the signing key can't be read.
    """
    bus = _unsigned_bus(settings, clock)
    if settings.signing_key_file is None:
        return bus
    with signing_packages("COS2P_SIGNING_KEY_FILE"):
        from cos2p.signing.keys import private_key
        from cos2p.signing.signer import SigningBus
    key = private_key(settings.signing_key_file)
    topics = {topic.full_name(settings.prefix) for topic in (FLEET, HEARTBEATS)}
    return SigningBus(bus, topics, key, clock)


@contextmanager
def signing_packages(setting: str) -> Iterator[None]:
    """Turn an import error of signing into a hint what to install.

    Raises:
        SettingsError: a package for signing is missing.
    """
    try:
        yield
    except ImportError as error:
        raise SettingsError(
            f"{setting} needs {error.name}: install Co-S2P's extra `signing`"
        ) from None


def _unsigned_bus(settings: BusSettings, clock: Clock) -> Bus:
    scheme, _, rest = settings.bus.partition(":")
    if scheme == "sqlite" and rest:
        from cos2p.log.buses.sqlite import SqliteBus

        return SqliteBus(Path(rest), clock)
    if scheme == "kafka" and rest.strip("/"):
        from cos2p.log.buses.kafka import KafkaBus

        return KafkaBus(rest.strip("/"), settings)
    raise SettingsError(
        f"{settings.bus!r} is not a bus address: use kafka://HOST:PORT or sqlite:PATH"
    )
