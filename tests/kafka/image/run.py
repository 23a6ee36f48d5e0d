"""Start a broker with the settings of its environment, as the official image does.

KAFKA_A_B is the property a.b, `__` stands for `_` and `___` for `-`; CLUSTER_ID formats the volume
unless it is formatted already.
"""

import os
import subprocess
from pathlib import Path

HOME = Path("/opt/kafka")
NOT_PROPERTIES = {"KAFKA_HEAP_OPTS", "KAFKA_OPTS"}


def property_of(variable: str) -> str:
    """KAFKA_LOG_DIRS -> log.dirs."""
    name = variable.removeprefix("KAFKA_").lower()
    return "-".join(
        "_".join(part.replace("_", ".") for part in word.split("__")) for word in name.split("___")
    )


def main() -> None:
    """Write the properties, format the volume, become the broker."""
    properties = {"log.dirs": "/var/lib/kafka/data"} | {
        property_of(name): value
        for name, value in os.environ.items()
        if name.startswith("KAFKA_") and name not in NOT_PROPERTIES
    }
    config = HOME / "config" / "server.properties"
    config.write_text("".join(f"{name}={value}\n" for name, value in properties.items()))
    options = os.environ.get("KAFKA_HEAP_OPTS", "-Xmx512m").split()
    java = ["java", *options, "-cp", f"{HOME}/libs/*"]
    form = ["kafka.tools.StorageTool", "format", "--ignore-formatted"]
    subprocess.run([*java, *form, "-t", os.environ["CLUSTER_ID"], "-c", str(config)], check=True)
    os.execvp("java", [*java, "kafka.Kafka", str(config)])


if __name__ == "__main__":
    main()
