"""What each record of a signed site must pass: the register of keys as a planner's check."""

from collections.abc import Callable
from pathlib import Path

from cos2p.service.open_bus import signing_packages
from cos2p_planner.take_over import CheckerFactory


def checker_of(keys_file: Path | None, kept: Callable[[str], None]) -> CheckerFactory | None:
    """The check of a register of keys; None where there is none.

    Args:
        keys_file: the register (COS2P_KEYS_FILE).
        kept: called with the reason when a changed register can't be read and the old one stays.

    Raises:
        SettingsError: the register can't be read, or its packages are missing.
    """
    if keys_file is None:
        return None
    with signing_packages("COS2P_KEYS_FILE"):
        from cos2p.signing.keys import Register
        from cos2p.signing.verifier import Verifier
    register = Register(keys_file, kept)
    return lambda sequences: Verifier(register.find, sequences)
