"""The differences between the wanted and the existing containers. Pure.

Invariants: a container that equals its wanted description is left alone. Worker classes that the
user did not name keep their number. A worker that stays keeps its part of the data. No two workers
have the same part.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from cos2p.errors import SettingsError
from cos2p_cli.containers import specs
from cos2p_cli.containers.classes import ClassRequest, Limits, limits_of
from cos2p_cli.containers.engine import ExistingContainer
from cos2p_cli.containers.specs import ContainerSpec, Site

Verb = Literal["kept", "started", "replaced", "created", "removed"]


@dataclass(frozen=True)
class Change:
    """The action for one container."""

    verb: Verb
    name: str
    spec: ContainerSpec | None = None


def compare(
    wanted: Sequence[ContainerSpec], found: Sequence[ExistingContainer], images: Mapping[str, str]
) -> list[Change]:
    """Return the changes that turn the existing containers into the wanted ones.

    `images` holds the ids of the images, by name. A container of an older image is replaced.
    """
    there = {f.name: f for f in found}
    names = {spec.name for spec in wanted}
    removed = [Change("removed", f.name) for f in found if f.name not in names]
    return [*removed, *(_change(spec, there.get(spec.name), images) for spec in wanted)]


def _change(
    spec: ContainerSpec, found: ExistingContainer | None, images: Mapping[str, str]
) -> Change:
    if found is None:
        return Change("created", spec.name, spec)
    if found.digest != spec.digest or found.image_id != images[spec.image]:
        return Change("replaced", spec.name, spec)
    stopped = found.status in ("created", "exited", "dead")
    return Change("started" if stopped else "kept", spec.name, spec)


def fleet(
    site: Site, asked: Sequence[ClassRequest], found: Sequence[ExistingContainer], cpus_max: float
) -> list[ContainerSpec]:
    """Return the wanted workers: the classes asked for, and all other classes unchanged.

    Raises:
        SettingsError: a class is unknown, or there are more workers than parts of the data.
    """
    workers = [f for f in found if f.role == "worker"]
    counts = dict(Counter(f.labels[specs.CLASS] for f in workers))
    known = {
        f.labels[specs.CLASS]: Limits(f.memory_bytes, float(f.labels[specs.CPUS])) for f in workers
    }
    limits = {**known, **{a.device_class: limits_of(a, known) for a in asked}}
    counts |= {a.device_class: a.count for a in asked}
    places = [(kind, ordinal) for kind, count in counts.items() for ordinal in range(count)]
    if len(places) > site.parts:
        raise SettingsError(
            f"{len(places)} workers need as many parts of the training data, which is cut into "
            f"{site.parts}: choose fewer workers, or start again with --parts {len(places)} "
            "(after `cos2p down --volumes`)"
        )
    parts = _parts(site, places, workers)
    return [
        specs.worker(site, kind, ordinal, limits[kind], parts[kind, ordinal], cpus_max)
        for kind, ordinal in places
    ]


def _parts(
    site: Site, places: Sequence[tuple[str, int]], workers: Sequence[ExistingContainer]
) -> dict[tuple[str, int], int]:
    """Assign parts of the data: existing workers keep theirs, others get the lowest free ones."""
    old_parts = {f.name: int(f.labels[specs.PART]) for f in workers}
    parts = {
        place: old_parts[name]
        for place in places
        if (name := specs.worker_name(site.name, *place)) in old_parts
    }
    free = iter(sorted(set(range(site.parts)) - set(parts.values())))
    for place in places:
        if place not in parts:
            parts[place] = next(free)
    return parts
