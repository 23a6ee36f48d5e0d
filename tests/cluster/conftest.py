"""The cluster that all tests of this folder share."""

import os
import uuid
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path

import helm_tools
import pytest
from kubernetes_node import Node, Site

from cos2p_cli.containers.specs import KAFKA_IMAGE

VERSION = metadata.version("cos2p")
IMAGES = (f"co-s2p-core:{VERSION}", f"co-s2p-worker:{VERSION}", KAFKA_IMAGE)


@pytest.fixture(scope="session")
def node() -> Iterator[Node]:
    """Up, with the project's images."""
    folder = Path(os.environ["COS2P_TEST_KUBERNETES"])
    node = Node(folder, folder / "state", helm_tools.helm(helm_tools.WHEELS[-1]))
    node.up()
    try:
        for image in IMAGES:
            node.load(image)
        yield node
    finally:
        node.down()


@pytest.fixture(scope="module")
def new_site(node: Node) -> Iterator[Callable[[], Site]]:
    """Make namespaces, which go with the tests of a file."""
    made: list[Site] = []

    def make() -> Site:
        made.append(Site(node, f"site-{uuid.uuid4().hex[:6]}"))
        made[-1].open()
        return made[-1]

    yield make
    for site in made:
        site.close()
