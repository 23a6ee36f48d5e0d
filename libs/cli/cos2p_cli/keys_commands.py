"""The commands of `cos2p keys`: keys that sign messages of devices and operators.

They also print the lines that admit a key in the planner's register.
Invariant: a private key is written once, to a file of its owner, and never printed.
"""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cos2p_cli.options import JsonOption, print_json

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from cos2p.signing.keys import SignerRole

app = typer.Typer(
    help="Make and list the keys that sign messages.",
    no_args_is_help=True,
    epilog="Example: cos2p keys new orin-1 --out orin-1.pem >> register.txt",
)
NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")

NameArgument = Annotated[
    str,
    typer.Argument(
        metavar="NAME",
        help="The COS2P_WORKER_ID of a worker or evaluator; any name of an operator.",
    ),
]
RoleOption = Annotated[str, typer.Option(metavar="ROLE", help="worker, evaluator or operator.")]


@app.command(epilog="Example: cos2p keys new orin-1 --out orin-1.pem >> register.txt")
def new(
    name: NameArgument,
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="File of the new key.")],
    role: RoleOption = "worker",
    as_json: JsonOption = False,
) -> None:
    """Make a private key (COS2P_SIGNING_KEY_FILE) and print its line for the register.

    The planner reads the register from COS2P_KEYS_FILE. Only the owner of FILE may read it. An
    existing file is never overwritten.
    """
    known = _check(name, role)
    from cos2p.signing.keys import new_key

    _show(name, known, str(out), new_key(out), as_json=as_json)


@app.command(epilog="Example: cos2p keys line orin-1 --key orin-1.pem")
def line(
    name: NameArgument,
    key: Annotated[Path, typer.Option("--key", metavar="FILE", help="The private key.")],
    role: RoleOption = "worker",
    as_json: JsonOption = False,
) -> None:
    """Print the register's line of an existing key."""
    known = _check(name, role)
    from cos2p.signing.keys import private_key

    _show(name, known, str(key), private_key(key), as_json=as_json)


@app.command("list", epilog="Example: cos2p keys list register.txt")
def list_(
    register: Annotated[Path, typer.Argument(metavar="REGISTER", help="The planner's file.")],
    as_json: JsonOption = False,
) -> None:
    """List the names, roles and keys of a register, read as the planner reads it."""
    from cos2p.service.open_bus import signing_packages

    with signing_packages("cos2p keys"):
        from cos2p.signing.keys import read_register
    rows = [
        {"role": known.role, "name": known.name, "key_id": identity.hex()}
        for identity, known in read_register(register).items()
    ]
    if as_json:
        print_json({"keys": rows})
        return
    for row in rows:
        print(f"{row['role']:<10} {row['name']:<24} {row['key_id']}")


def _check(name: str, role: str) -> "SignerRole":
    from cos2p.errors import SettingsError
    from cos2p.service.open_bus import signing_packages

    with signing_packages("cos2p keys"):
        from cos2p.signing.keys import SIGNER_ROLES, role_named
    known = role_named(role)
    if known is None:
        raise SettingsError(f"--role takes {', '.join(SIGNER_ROLES)}, not {role!r}")
    if not NAME.fullmatch(name):
        raise SettingsError(
            f"{name!r} is not a valid name: up to 63 of a-z, 0-9, '.', '_' and '-', beginning with "
            "a letter or digit"
        )
    return known


def _show(
    name: str, role: "SignerRole", file: str, key: "Ed25519PrivateKey", *, as_json: bool
) -> None:
    from cos2p.signing.envelope import key_id
    from cos2p.signing.keys import public_bytes, register_line

    text = register_line(role, name, key)
    if as_json:
        identity = key_id(public_bytes(key)).hex()
        print_json({"role": role, "name": name, "file": file, "key_id": identity, "line": text})
    else:
        print(text)
