"""`cos2p up` and `cos2p down`: their options, and how they end.

Invariant: a command imports the modules that it needs when it runs.
"""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cos2p.errors import SettingsError
from cos2p_cli.options import JsonOption, print_json

if TYPE_CHECKING:
    from cos2p_cli.containers.up import UpOptions, UpResult

NameOption = Annotated[
    str,
    typer.Option(
        metavar="NAME", help="Of the ring: containers, network and volume are named by it."
    ),
]
WorkersOption = Annotated[
    str | None,
    typer.Option(
        metavar="CLASS=COUNT,...",
        help="How many devices of which class: x86, orin, nano, or CLASS=COUNT:MEMORY:CPUS. "
        "Other classes stay as they are (default: orin=2,nano=2, or what is there).",
    ),
]
TaskOption = Annotated[
    str | None,
    typer.Option(
        metavar="TASK", help="digits, fashion-mnist, or one in the image (default: digits)."
    ),
]
ConfigOption = Annotated[
    Path | None, typer.Option("--config", metavar="FILE", help="A run file (TOML).")
]
RunIdOption = Annotated[
    str | None,
    typer.Option(
        "--run-id", metavar="NAME", help="The run, and the prefix of its topics (default: NAME)."
    ),
]
PartsOption = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=1024,
        metavar="N",
        help="Parts of the training data, one for each worker (default: 8 or more).",
    ),
]
PortOption = Annotated[
    int | None,
    typer.Option(
        min=1, max=65535, metavar="PORT", help="Kafka's on 127.0.0.1 (default: a free one)."
    ),
]
DataOption = Annotated[
    Path | None,
    typer.Option(
        "--data", envvar="COS2P_DATA_DIR", metavar="DIR", help="Folder of the task's data files."
    ),
]
TagOption = Annotated[
    str | None,
    typer.Option(metavar="TAG", help="Of co-s2p-core and co-s2p-worker (default: this version)."),
]
ImageOption = Annotated[
    str | None,
    typer.Option(metavar="IMAGE:TAG", help="Your own instead, with a task of yours in it."),
]
KafkaOption = Annotated[str | None, typer.Option(metavar="IMAGE:TAG", help="The broker's.")]
TimeoutOption = Annotated[
    float, typer.Option(min=1, metavar="SECONDS", help="Deadline of all waiting together.")
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
    no_progress: Annotated[bool, typer.Option("--no-progress", help="No live screen.")] = False,
) -> None:
    """The whole ring in containers on this machine, devices by memory and CPU limits."""
    from cos2p_cli.containers.specs import KAFKA_IMAGE
    from cos2p_cli.containers.up import UpOptions

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
    result = _bring_up(chosen, as_json=as_json, progress=not no_progress)
    if follow:
        from cos2p_cli.options import settings_of
        from cos2p_cli.status import show

        show(settings_of(result.site.bus, result.site.run_id), follow=True, as_json=as_json)
    elif as_json:
        print_json(result.plain())
    else:
        typer.echo("\n".join(result.next_steps()))


def down(
    name: NameOption = "co-s2p",
    volumes: Annotated[
        bool, typer.Option("--volumes", help="Remove the log of its runs, too: it is gone then.")
    ] = False,
    timeout: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=600,
            metavar="SECONDS",
            help="How long each may take to leave before it is killed (default: what it needs).",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """End the ring that `cos2p up` began; its log stays, and `up` goes on from there."""
    import asyncio

    from rich.console import Console

    from cos2p_cli.containers.down import DownOptions, take_down
    from cos2p_cli.containers.engine import DockerEngine
    from cos2p_cli.containers.tell import Tell

    engine = DockerEngine()
    try:
        with Tell(Console(), as_json=as_json) as tell:
            result = asyncio.run(
                take_down(DownOptions(_name(name), volumes, timeout), engine, tell)
            )
    finally:
        engine.close()
    if as_json:
        print_json(result.plain())


def _name(text: str) -> str:
    """Return a name if Docker, DNS and the topics all accept it.

    Raises:
        SettingsError: the text is not such a name.
    """
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,30}", text):
        raise SettingsError(
            f"{text!r} is not a valid name: small letters, digits and hyphens, at most 31 of them"
        )
    return text


def _bring_up(chosen: "UpOptions", *, as_json: bool, progress: bool) -> "UpResult":
    import asyncio

    from rich.console import Console

    from cos2p.clock import SystemClock
    from cos2p.log.bus import Bus
    from cos2p.service.open_bus import open_bus
    from cos2p.settings import BusSettings, load_settings
    from cos2p_cli.containers.engine import DockerEngine
    from cos2p_cli.containers.tell import Tell
    from cos2p_cli.containers.up import Up

    clock = SystemClock()

    def open_log(address: str, prefix: str) -> Bus:
        settings = load_settings(
            BusSettings,
            bus=address,
            prefix=prefix,
            kafka_security="PLAINTEXT",
            kafka_timeout_s=KAFKA_PATIENCE_S,
        )
        return open_bus(settings, clock)

    engine = DockerEngine()
    try:
        with Tell(Console(), as_json=as_json, progress=progress) as tell:
            return asyncio.run(Up(chosen, engine, clock, open_log, tell).run())
    finally:
        engine.close()
