"""Data files that are read only if they are the known ones.

Invariant: a file's bytes, unpacked where it is `.gz`, have the SHA-256 that the task names.
"""

import gzip
import hashlib
import zlib
from dataclasses import dataclass
from pathlib import Path

from cos2p.errors import SettingsError


@dataclass(frozen=True)
class Source:
    """Where a data set comes from.

    Attributes:
        name: name of the data set, for people.
        files: what a folder must hold, for people.
    """

    name: str
    debian_package: str
    debian_dir: Path
    files: str

    def read(self, data_dir: Path | None, name: str, digest: str) -> bytes:
        """Return the unpacked bytes of `name` or `name.gz` in the user's folder, else in Debian's.

        Raises:
            SettingsError: the file is missing, unreadable, or not the one with this SHA-256.
        """
        folder = data_dir or self.debian_dir
        path = next((p for p in (folder / name, folder / f"{name}.gz") if p.is_file()), None)
        if path is None:
            raise SettingsError(
                f"{self.name}: there is no {name}(.gz) in {folder}. Two ways to get it: "
                f"`apt-get install {self.debian_package}` (Debian), or name the folder that holds "
                f"{self.files} with --data DIR (COS2P_DATA_DIR)"
            )
        try:
            body = path.read_bytes()
            if path.suffix == ".gz":
                body = gzip.decompress(body)
        except (OSError, EOFError, zlib.error) as error:
            raise SettingsError(f"{self.name}: can't read {path}: {error}") from error
        found = hashlib.sha256(body).hexdigest()
        if found != digest:
            raise SettingsError(
                f"{self.name}: {path} is not the known file (SHA-256 {found[:12]}..., "
                f"expected {digest[:12]}...): fetch it again"
            )
        return body
