"""Passwords for Kafka: read from a file, and again when it changes."""

import os
from pathlib import Path

import pytest

from cos2p.errors import SettingsError
from cos2p.log.buses.kafka_access import Access, access_from
from cos2p.settings import BusSettings


def access(file: Path) -> Access:
    return access_from(
        "127.0.0.1:9092",
        BusSettings(kafka_security="SASL_SSL", kafka_username="w", kafka_password_file=file),
    )


@pytest.fixture
def file(tmp_path: Path) -> Path:
    found = tmp_path / "password"
    found.write_text("first\n")
    return found


def shown(to: Access) -> str:
    return str(to.client["sasl_plain_password"])


def test_a_password_is_a_files_text_without_the_lines_end(file: Path) -> None:
    assert "first" == shown(access(file))


def test_a_password_file_that_is_replaced_is_read_again(file: Path) -> None:
    found = access(file)
    newer = file.with_name("newer")
    newer.write_text("other\n")

    os.replace(newer, file)

    assert "other" == shown(found)


@pytest.mark.parametrize("content", [None, b"", b"\n", b"\xff\xfe"])
def test_a_password_file_that_is_no_more_one_leaves_the_password(
    file: Path, content: bytes | None
) -> None:
    found = access(file)
    if content is None:
        file.unlink()
    else:
        file.write_bytes(content)

    assert "first" == shown(found)
    file.write_text("second\n")
    assert "second" == shown(found)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "can't be read: No such file"),
        (b"", "is empty"),
        (b"\n", "is empty"),
        (b"\xff\xfe", "is not text in UTF-8"),
    ],
)
def test_a_file_without_a_password_is_named_at_the_start(
    file: Path, content: bytes | None, told: str
) -> None:
    if content is None:
        file.unlink()
    else:
        file.write_bytes(content)

    with pytest.raises(SettingsError, match=f"COS2P_KAFKA_PASSWORD_FILE=.*password {told}"):
        access(file)


def test_an_empty_password_is_refused() -> None:
    settings = BusSettings(kafka_security="SASL_SSL", kafka_username="w", kafka_password="")

    with pytest.raises(SettingsError, match="COS2P_KAFKA_PASSWORD is empty"):
        access_from("127.0.0.1:9092", settings)


def test_an_access_shows_no_password(file: Path) -> None:
    assert "first" not in repr(access(file))
