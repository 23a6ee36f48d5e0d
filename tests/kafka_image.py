"""Build Apache Kafka for a Docker engine, under the official image's name, from Maven's jars.

For machines where no registry answers; where one does, `docker pull` gives the real one.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from kafka_tools import VERSION, jars

RECIPE = Path(__file__).with_name("kafka") / "image"


def main() -> int:
    """Build it; the builder's exit code."""
    with tempfile.TemporaryDirectory() as context:
        shutil.copytree(RECIPE, context, dirs_exist_ok=True)
        shutil.copytree(jars(), Path(context) / "libs")
        command = ["docker", "build", "--quiet", "--tag", f"apache/kafka:{VERSION}", context]
        return subprocess.run(command, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
