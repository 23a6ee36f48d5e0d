"""The exit codes of all commands, and the tree of errors that lead to them.

Invariants:
An error that a user can cause is a `Cos2pError`.
Its text states what happened, where, and what to do.
It carries the exit code of the process that it ends.
"""

from enum import IntEnum


class ExitCode(IntEnum):
    """The meaning of the process's exit status; the docs show `help`."""

    help: str

    def __new__(cls, value: int, help_text: str) -> "ExitCode":  # noqa: D102
        member = int.__new__(cls, value)
        member._value_ = value
        member.help = help_text
        return member

    OK = 0, "done, or stopped when asked to"
    BUG = 1, "an unexpected error; the traceback is on standard error"
    USAGE = 2, "a setting, option, file or task is wrong; the message names it"
    BUS = 3, "the bus can't be reached, or refuses us; the text names host and cause"
    FORCED = 4, "a second signal asked for an exit at once"
    DEADLINE = 5, "the shutdown took longer than its deadline"
    DIVERGED = 6, "a replay gave other bytes than the run; version and unit are named"
    FENCED = 7, "a newer planner has taken over this run"
    RUN_FAILED = 8, "the run ended without reaching its target; the message names what was missing"
    STORAGE = 9, "a disk is full or can't be written"
    DATA = 10, "the log or a blob in it is damaged or incomplete"
    ENGINE = 11, "the container engine can't be reached, or refuses; the message gives the reason"


class Cos2pError(Exception):
    """Base of all errors with an expected cause."""

    exit_code = ExitCode.USAGE


class SettingsError(Cos2pError):
    """A setting, option, run file or task is wrong."""


class BudgetError(SettingsError):
    """A memory or time budget is below the smallest possible submodel."""


class BusError(Cos2pError):
    """The bus can't do what was asked; the text gives the cause."""

    exit_code = ExitCode.BUS


class BusUnreachableError(BusError):
    """There is no connection; the text names host and cause (refused, TLS, password, ...)."""


class TopicMissingError(BusError):
    """A topic that the run needs does not exist."""


class TopicMismatchError(BusError):
    """A topic exists, but with a different number of partitions than the run needs."""


class RecordTooLargeError(BusError):
    """A record exceeds the topic's size limit; nothing was written."""


class OffsetExpiredError(BusError):
    """The requested offset is no longer in the log (retention), or was never there."""

    exit_code = ExitCode.DATA


class StorageError(Cos2pError):
    """A disk is full or can't be written."""

    exit_code = ExitCode.STORAGE


class RunExistsError(SettingsError):
    """A run is already stored, or is running, at this place."""


class BlobError(Cos2pError):
    """A blob can't be read completely and correctly."""

    exit_code = ExitCode.DATA


class ChunkMissingError(BlobError):
    """A chunk of the blob is not where its reference points (gap, expired, truncated)."""


class ChunkForeignError(BlobError):
    """A record claims to be a chunk of the blob, but is not (index, count, repeat)."""


class DigestError(BlobError):
    """The bytes read are not the bytes written."""


class MessageError(Cos2pError):
    """A record can't be decoded; it is counted and goes to the dead-letter topic."""

    exit_code = ExitCode.DATA


class UnknownMessageError(MessageError):
    """The record names a message, or a version of one, that this program does not know."""


class SignatureError(MessageError):
    """A record is not signed by its claimed author; it is refused like an unreadable one."""


class FencedError(Cos2pError):
    """A newer planner has taken over."""

    exit_code = ExitCode.FENCED


class DivergedError(Cos2pError):
    """A replay of the same log gave different bytes."""

    exit_code = ExitCode.DIVERGED


class RunFailedError(Cos2pError):
    """A run ended without reaching its target."""

    exit_code = ExitCode.RUN_FAILED
