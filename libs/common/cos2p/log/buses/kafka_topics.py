"""Finds out which topics a Kafka cluster has, and makes those that are missing.

Invariants:
Asking for a topic never makes it.
Every broker that answers knows a topic made here before `create` returns.
The result for a topic is kept until `forget`.
"""

import asyncio
from collections.abc import Sequence
from typing import Any

from aiokafka import errors as kafka
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.client import AIOKafkaClient
from aiokafka.protocol.metadata import MetadataRequest

from cos2p.errors import BusError, SettingsError, TopicMismatchError, TopicMissingError
from cos2p.log.bus import TopicSpec
from cos2p.log.buses.kafka_link import NOT_ALLOWED, Link, stop

ENVELOPE_BYTES_MAX = 16 * 1024
"""Room for a record's key, headers and framing next to its value."""
SEGMENTS_PER_RETENTION = 4
COMPACTION = {
    "segment.bytes": str(4 << 20),
    "segment.ms": str(5 * 60 * 1000),
    "min.cleanable.dirty.ratio": "0.1",
    "delete.retention.ms": str(60 * 1000),
}
"""Kafka never compacts the newest segment. With these settings that segment is small and short, so
that reading a compacted topic from its start moves only a few MB. A broker's cleaner runs every
15 s."""
SETTLE_S = 0.5
"""How long a topic must be missing, because brokers learn of a new one at different times."""


class MetadataClient(AIOKafkaClient):  # type: ignore[misc]
    """A bare client with the same `start` as the other clients."""

    async def start(self) -> None:
        """Connect."""
        await self.bootstrap()


class Catalogue:
    """Partition counts of the topics seen so far.

    New topics have the factor `replication`; -1 stands for the broker's default.
    """

    def __init__(self, link: Link, replication: int) -> None:
        self._link = link
        self._replication = replication
        self._counts: dict[str, int] = {}
        self._metadata_client: MetadataClient | None = None
        self._opening = asyncio.Lock()

    async def require(self, topic: str, partition: int) -> int:
        """Return the number of a topic's partitions, and check that one of them exists.

        Raises:
            TopicMissingError: there is no such topic or partition.
            BusError: this client may not ask for the topic.
            BusUnreachableError: there is no connection.
        """
        count = self._counts.get(topic)
        if count is None:
            count = (await self._query([topic], settle=True)).get(topic)
            if count is None:
                raise TopicMissingError(
                    f"{self._link.access.address}: there is no topic {topic}: "
                    "run `cos2p topics create`"
                )
            self._counts[topic] = count
        if not 0 <= partition < count:
            raise TopicMissingError(
                f"{self._link.access.address}: {topic} has {count} partitions, there is no "
                f"{topic}[{partition}]"
            )
        return count

    def forget(self, topic: str) -> None:
        """Ask for this topic again at its next use."""
        self._counts.pop(topic, None)

    async def create(self, specs: Sequence[TopicSpec]) -> None:
        """Make the topics that are missing and check the others.

        Raises:
            TopicMismatchError: a topic exists with a different number of partitions.
            SettingsError: the replication factor does not suit the cluster.
            BusError: this client may not make the topics.
        """
        found = await self._query([spec.name for spec in specs], settle=False)
        missing = [spec for spec in specs if spec.name not in found]
        if missing:
            await self._make(missing)
            found = await self._settled(specs)
        for spec in specs:
            if found[spec.name] != spec.partitions:
                raise TopicMismatchError(
                    f"{self._link.access.address}: topic {spec.name} has {found[spec.name]} "
                    f"partitions, not {spec.partitions}"
                )
        self._counts.update({spec.name: spec.partitions for spec in specs})

    async def close(self) -> None:
        """Close the connection."""
        metadata_client, self._metadata_client = self._metadata_client, None
        if metadata_client is not None:
            await stop(metadata_client)

    async def _make(self, specs: Sequence[TopicSpec]) -> None:
        admin = await self._link.open(lambda: AIOKafkaAdminClient(**self._link.options))
        try:
            answer = await admin.create_topics(
                [_new_topic(spec, self._replication) for spec in specs]
            )
        except (kafka.KafkaError, OSError, TimeoutError) as error:
            raise await self._link.unreachable(error) from error
        finally:
            await stop(admin)
        for name, code, *rest in answer.topic_errors:
            self._check_made(name, kafka.for_code(code), rest[0] if rest else None)

    def _check_made(self, name: str, error: type[Exception], text: str | None) -> None:
        if error in (kafka.NoError, kafka.TopicAlreadyExistsError):
            return
        place = self._link.access.address
        if error is kafka.InvalidReplicationFactorError:
            raise SettingsError(
                f"{place}: COS2P_REPLICATION={max(0, self._replication)} does not suit this "
                f"cluster: {text}"
            )
        if error in NOT_ALLOWED:
            raise BusError(f"{place}: not allowed: no ACL to create topic {name}")
        raise BusError(f"{place}: topic {name} can't be made: {error.__name__}: {text}")

    async def _settled(self, specs: Sequence[TopicSpec]) -> dict[str, int]:
        """Wait until every broker that answers knows the topics; return their counts."""
        names = [spec.name for spec in specs]
        deadline = asyncio.get_running_loop().time() + self._link.patience_s
        while True:
            metadata_client = await self._open()
            await metadata_client.force_metadata_update()
            views = [
                await self._query_node(metadata_client, broker.nodeId, names)
                for broker in metadata_client.cluster.brokers()
            ]
            seen = [view for view in views if view is not None]
            if seen and all(len(view) == len(names) for view in seen):
                return seen[0]
            if asyncio.get_running_loop().time() > deadline:
                raise await self._link.unreachable(None)
            await self._link.rest()

    async def _query(self, names: list[str], *, settle: bool) -> dict[str, int]:
        now = asyncio.get_running_loop().time
        start = now()
        while True:
            metadata_client = await self._open()
            node = metadata_client.get_random_node()
            view = None if node is None else await self._query_node(metadata_client, node, names)
            if view is not None and (
                len(view) == len(names) or not settle or now() > start + SETTLE_S
            ):
                return view
            if view is None:
                if now() > start + self._link.patience_s:
                    await self.close()
                    raise await self._link.unreachable(None)
                await metadata_client.force_metadata_update()
            await self._link.rest()

    async def _query_node(
        self, metadata_client: MetadataClient, node: int, names: list[str]
    ) -> dict[str, int] | None:
        """Partition counts of the topics that a broker knows; None if it does not answer."""
        try:
            answer = await metadata_client.send(node, MetadataRequest(names, False))
        except (kafka.KafkaError, OSError, TimeoutError):
            return None
        counts: dict[str, int] = {}
        for row in answer.to_object()["topics"]:
            error = kafka.for_code(row["error_code"])
            if error is kafka.TopicAuthorizationFailedError:
                raise BusError(
                    f"{self._link.access.address}: not allowed: no ACL for topic {row['topic']}"
                )
            if error is kafka.InvalidTopicError:
                raise BusError(f"{row['topic']!r} is not a valid topic name")
            if error is kafka.NoError and row["partitions"]:
                counts[row["topic"]] = len(row["partitions"])
        return counts

    async def _open(self) -> MetadataClient:
        async with self._opening:
            if self._metadata_client is None:
                self._metadata_client = await self._link.open(
                    lambda: MetadataClient(**self._link.options)
                )
            return self._metadata_client


def topic_settings(spec: TopicSpec) -> dict[str, str]:
    """A topic's settings, as Kafka names them."""
    retention_ms = -1 if spec.retention_s is None else int(spec.retention_s * 1000)
    settings = {
        "cleanup.policy": "delete",
        "retention.ms": str(retention_ms),
        "retention.bytes": "-1",
        "max.message.bytes": str(spec.record_bytes_max + ENVELOPE_BYTES_MAX),
    }
    if spec.retention_s is not None:
        # Segments expire whole and only after their last write, so they must be short.
        settings["segment.ms"] = str(retention_ms // SEGMENTS_PER_RETENTION)
    if not spec.compacted:
        return settings
    return settings | {
        "cleanup.policy": "compact" if spec.retention_s is None else "compact,delete",
        **COMPACTION,
    }


def _new_topic(spec: TopicSpec, replication: int) -> Any:
    topic = NewTopic(spec.name, spec.partitions, 1, topic_configs=topic_settings(spec))
    # Brokers accept -1 for their default, but NewTopic's constructor does not.
    topic.replication_factor = replication
    return topic
