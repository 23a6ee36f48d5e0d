"""The state of a fold as bytes and back: a tree of dataclasses, by their types.

Owns what snapshots hold. Invariants: the same state gives the same bytes; reading runs no code of
the bytes and raises `StateError` alone; a new field of a state needs no line here. The bytes begin
with the shape of the types, so that a program with other fields refuses them.
Fields may be numbers, text, bytes, enums, messages, arrays (`Floats` and its like), dataclasses,
and lists, tuples, sets, dicts and counters of them. Dicts keep their order.
"""

from collections.abc import Hashable
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import cache
from typing import Annotated, Any, TypeVar, cast, get_args, get_origin, get_type_hints

import msgpack
import numpy as np
from blake3 import blake3
from numpy.typing import NDArray
from pydantic import BaseModel, PlainSerializer, PlainValidator, TypeAdapter, ValidationError

from cos2p.errors import MessageError
from cos2p.run_config import plain_validation

T = TypeVar("T")
SHAPE_BYTES = 8


class StateError(MessageError):
    """These bytes are not such a state."""


def _of_type(dtype: type[np.generic]) -> Any:
    """How pydantic reads and writes an array of this type: its shape and its bytes."""

    def load(value: Any) -> NDArray[Any]:
        if isinstance(value, np.ndarray):
            return value.astype(dtype, copy=False)
        shape, data = value
        found = np.frombuffer(data, np.dtype(dtype).newbyteorder("<")).reshape(shape)
        return found.astype(dtype)  # a copy: arrays of a state are written to

    def dump(array: NDArray[Any]) -> Any:
        plain = np.ascontiguousarray(array, np.dtype(dtype).newbyteorder("<"))
        return [list(array.shape), plain.tobytes()]

    return PlainValidator(load), PlainSerializer(dump)


_LOAD_F8, _DUMP_F8 = _of_type(np.float64)
_LOAD_F4, _DUMP_F4 = _of_type(np.float32)
_LOAD_I8, _DUMP_I8 = _of_type(np.int64)
_LOAD_I2, _DUMP_I2 = _of_type(np.int16)
_LOAD_U1, _DUMP_U1 = _of_type(np.uint8)
Floats = Annotated[NDArray[np.float64], _LOAD_F8, _DUMP_F8]
Floats32 = Annotated[NDArray[np.float32], _LOAD_F4, _DUMP_F4]
Counts = Annotated[NDArray[np.int64], _LOAD_I8, _DUMP_I8]
Counts16 = Annotated[NDArray[np.int16], _LOAD_I2, _DUMP_I2]
Bytes = Annotated[NDArray[np.uint8], _LOAD_U1, _DUMP_U1]


@cache
def _adapter(kind: Hashable) -> TypeAdapter[Any]:
    return TypeAdapter(cast(Any, kind))


@cache
def shape_of(kind: Hashable) -> bytes:
    """A digest of the fields of a type and of all types in it: their names, order and types."""
    return blake3(repr(_shape(kind, ())).encode()).digest(length=8)


def _shape(kind: Any, above: tuple[Any, ...]) -> object:
    if kind in above:  # a type that holds itself
        return kind.__qualname__
    if is_dataclass(kind):
        hints = get_type_hints(kind, include_extras=True)
        return [(f.name, _shape(hints[f.name], (*above, kind))) for f in fields(kind)]
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        known = kind.model_fields.items()
        return [(name, _shape(field.annotation, (*above, kind))) for name, field in known]
    if isinstance(kind, type) and issubclass(kind, Enum):
        return [member.value for member in kind]
    inner = get_args(kind)
    if get_origin(kind) is Annotated:
        return _shape(inner[0], above)
    if inner:
        return str(get_origin(kind)), [_shape(x, above) for x in inner]
    return getattr(kind, "__qualname__", repr(kind))


def pack(kind: type[T], state: T) -> bytes:
    """The bytes of a state of this type."""
    plain = _adapter(cast(Hashable, kind)).dump_python(state)
    packed = bytes(msgpack.packb(plain, default=_plain, use_bin_type=True))
    return shape_of(cast(Hashable, kind)) + packed


def has_shape(kind: type[T], data: bytes) -> bool:
    """Whether these bytes are of a program with the same fields."""
    return data[:SHAPE_BYTES] == shape_of(cast(Hashable, kind))


def unpack(kind: type[T], data: bytes) -> T:
    """The state that `pack` was given.

    Raises:
        StateError: the bytes are another type's, another program version's, or damaged.
    """
    if not has_shape(kind, data):
        raise StateError(f"its {kind.__name__} has other fields than this program's")
    try:
        plain = msgpack.unpackb(data[SHAPE_BYTES:], strict_map_key=False, max_ext_len=0)
        return cast(T, _adapter(cast(Hashable, kind)).validate_python(plain))
    except ValidationError as error:
        raise StateError(f"{kind.__name__}: {plain_validation(error)}"[:2000]) from error
    except (ValueError, TypeError, RecursionError, msgpack.UnpackException) as error:
        raise StateError(f"not a {kind.__name__}: {error!r}"[:2000]) from error


def _plain(value: Any) -> Any:
    """What msgpack has no type for."""
    if isinstance(value, set | frozenset):
        return sorted(value)
    if isinstance(value, np.generic):
        return value.item()
    return list(value)
