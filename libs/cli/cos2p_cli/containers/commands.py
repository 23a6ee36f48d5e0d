"""`cos2p up` and `cos2p down`: their options, and how they end.

Invariant: a command imports the modules that it needs when it runs.
"""

import re
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from cos2p.errors import SettingsError
from cos2p_cli.options import (
    ConfigOption,
    DataOption,
    JsonOption,
    NoProgressOption,
    print_json,
    settings_of,
)

if TYPE_CHECKING:
    from cos2p.log.bus import Bus
    from cos2p_cli.containers.engine import DockerEngine
    from cos2p_cli.containers.steps import StepPrinter

NameOption = Annotated[
    str,
    typer.Option(metavar="NAME", help="The ring's name, used for containers, network and volume."),
]
WorkersOption = Annotated[
    str | None,
    typer.Option(
        metavar="CLASS=COUNT,...",
        help="Devices per class: x86, orin, nano, or CLASS=COUNT:MEMORY:CPUS. "
        "Other classes stay unchanged (default: orin=2,nano=2, or the existing workers).",
    ),
]
TaskOption = Annotated[
    str | None, typer.Option(metavar="TASK", help="A task in the image (default: digits).")
]
RunIdOption = Annotated[
    str | None, typer.Option(metavar="NAME", help="Run and topic prefix (default: --name).")
]
PartsOption = Annotated[
    int | None,
    typer.Option(
        min=1, max=1024, metavar="N", help="Parts of the training data (default: 8 or more)."
    ),
]
PortOption = Annotated[
    int | None,
    typer.Option(min=1, max=65535, metavar="PORT", help="Kafka's on 127.0.0.1 (default: any)."),
]
TagOption = Annotated[
    str | None, typer.Option(metavar="TAG", help="Tag of both images (default: this version).")
]
ImageOption = Annotated[
    str | None, typer.Option(metavar="IMAGE:TAG", help="Worker image with your task.")
]
KafkaOption = Annotated[str | None, typer.Option(metavar="IMAGE:TAG", help="Kafka's image.")]
TimeoutOption = Annotated[
    float, typer.Option(min=1, metavar="SECONDS", help="Deadline of all waits together.")
]
FollowOption = Annotated[
    bool, typer.Option("--follow/--detach", help="Show the run until it has finished.")
]
KAFKA_PATIENCE_S = 3.0
"""How long one attempt to reach a broker may take. `up` retries until its own deadline."""


def up(
    workers: WorkersOption = None,
    task: TaskOption = None,
    config: ConfigOption = None,
    name: NameOption = "co-s2p",
    run_id: RunIdOption = None,
    parts: PartsOption = None,
    port: PortOption = None,
    data: DataOption = None,
    image_tag: TagOption = None,
    worker_image: ImageOption = None,
    kafka_image: KafkaOption = None,
    timeout: TimeoutOption = 300.0,
    follow: FollowOption = False,
    as_json: JsonOption = False,
    no_progress: NoProgressOption = False,
) -> None:
    """Start or scale a whole ring in containers on this machine.

    Each device is a container with limits of memory and CPU.
    """
    from cos2p_cli.containers.specs import KAFKA_IMAGE
    from cos2p_cli.containers.up import Up, UpOptions

    chosen = UpOptions(
        _name(name),
        workers,
        task,
        config,
        _name(run_id) if run_id else None,
        parts,
        port,
        data,
        image_tag,
        worker_image,
        kafka_image or KAFKA_IMAGE,
        timeout,
    )
    import asyncio

    from cos2p.clock import SystemClock

    with _docker(as_json=as_json, progress=not no_progress) as (engine, steps):
        result = asyncio.run(Up(chosen, engine, SystemClock(), _open_log, steps).run())
    if follow:
        from cos2p_cli.status import show

        show(settings_of(result.site.bus, result.site.run_id), follow=True, as_json=as_json)
    elif as_json:
        print_json(result.plain())
    else:
        typer.echo("\n".join(result.next_steps()))


def down(
    name: NameOption = "co-s2p",
    volumes: Annotated[
        bool, typer.Option("--volumes", help="Also delete the log of the ring's runs.")
    ] = False,
    timeout: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=600,
            metavar="SECONDS",
            help="Kill a container that does not stop in this time (default: by its role).",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Stop and remove a ring in containers.

    The log of its runs stays, and `cos2p up` continues from there.
    """
    import asyncio

    from cos2p_cli.containers.down import take_down

    with _docker(as_json=as_json) as (engine, steps):
        result = asyncio.run(
            take_down(_name(name), engine, steps, volumes=volumes, patience_s=timeout)
        )
    if as_json:
        print_json(result)


def _name(text: str) -> str:
    """Return a name if Docker, DNS and the topics all accept it; else raise SettingsError."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,30}", text):
        raise SettingsError(
            f"{text!r} is not a valid name: small letters, digits and hyphens, at most 31 of them"
        )
    return text


@contextmanager
def _docker(
    *, as_json: bool, progress: bool = True
) -> "Iterator[tuple[DockerEngine, StepPrinter]]":
    """Connect to the engine, and show the steps until the end."""
    from rich.console import Console

    from cos2p_cli.containers.engine import DockerEngine
    from cos2p_cli.containers.steps import StepPrinter

    engine = DockerEngine()
    with closing(engine), StepPrinter(Console(), as_json=as_json, progress=progress) as steps:
        yield engine, steps


def _open_log(address: str, prefix: str) -> "Bus":
    from cos2p.clock import SystemClock
    from cos2p.service.open_bus import open_bus
    from cos2p.settings import BusSettings, load_settings

    settings = load_settings(
        BusSettings,
        bus=address,
        prefix=prefix,
        kafka_security="PLAINTEXT",
        kafka_timeout_s=KAFKA_PATIENCE_S,
    )
    return open_bus(settings, SystemClock())
