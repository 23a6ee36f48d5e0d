"""The commands of `cos2p topics`.

Invariant: a command imports the modules that it needs when it runs.
"""

from typing import Annotated

import typer

from cos2p_cli.options import BusOption, JsonOption, PrefixOption, settings_of

app = typer.Typer(
    help="List and create a run's topics, and print their rights.",
    no_args_is_help=True,
    epilog="Example: cos2p topics list --bus kafka://localhost:9092",
)


@app.command("list", epilog="Example: cos2p topics list --bus runs/demo")
def list_(bus: BusOption = None, prefix: PrefixOption = None, as_json: JsonOption = False) -> None:
    """List partitions, records and bytes of each topic; fail if one is missing or wrong."""
    from cos2p_cli.topics import list_topics

    list_topics(settings_of(bus, prefix), as_json=as_json)


@app.command("create", epilog="Example: cos2p topics create --bus kafka://localhost:9092")
def create(
    bus: BusOption = None,
    prefix: PrefixOption = None,
    partitions: Annotated[
        int | None,
        typer.Option(min=1, max=1024, metavar="P", help="Of the blob topics (default: 4)."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Create the topics that are missing."""
    from cos2p_cli.topics import create_topics

    create_topics(settings_of(bus, prefix), partitions=partitions, as_json=as_json)


@app.command(
    "acls",
    epilog="Example: cos2p topics acls --prefix site-a --user worker=orin-1 --user worker=nano-1",
)
def acls(
    prefix: PrefixOption = None,
    users: Annotated[
        list[str] | None,
        typer.Option(
            "--user",
            metavar="ROLE=USER",
            help="A user of a role; may be repeated (default: the role's name).",
        ),
    ] = None,
    strimzi: Annotated[
        str | None,
        typer.Option(
            metavar="CLUSTER", help="Print KafkaTopic and KafkaUser resources of this cluster."
        ),
    ] = None,
    authentication: Annotated[
        str, typer.Option(metavar="HOW", help="With --strimzi: scram-sha-512 or tls.")
    ] = "scram-sha-512",
    partitions: Annotated[
        int,
        typer.Option(min=1, max=1024, metavar="P", help="With --strimzi: of blob topics."),
    ] = 4,
    replicas: Annotated[
        int,
        typer.Option(min=1, max=9, metavar="N", help="With --strimzi: of each topic."),
    ] = 3,
    as_json: JsonOption = False,
) -> None:
    """Print the rights that each role needs on a secured Kafka, as lines for kafka-acls.sh.

    The lines take the address from $BOOTSTRAP and an administrator's client settings from the file
    $ADMIN_CONFIG. The command connects to nothing and changes nothing.
    """
    from cos2p_cli.acls import AclOptions, show

    chosen = AclOptions(tuple(users or ()), strimzi, authentication, partitions, replicas)
    show(settings_of(None, prefix).prefix, chosen, as_json=as_json)
