"""Thrift's compact protocol, as far as Parquet uses it: for files whose footer or page headers state what isn't so.

Source: https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md
"""

from dataclasses import dataclass
from typing import Any

TRUE, FALSE, BYTE, INTEGERS, DOUBLE, BINARY, LIST, STRUCT = 1, 2, 3, (4, 5, 6), 7, 8, 9, 12


@dataclass
class ThriftList:
    """A list; ``stated`` is the number of values that its header states, if that is not the true one."""

    kind: int
    values: list[Any]
    stated: int | None = None


@dataclass
class ThriftStruct:
    """A struct: the type and the value of each field, by the field's number."""

    fields: dict[int, tuple[int, Any]]

    def __getitem__(self, number: int) -> Any:
        return self.fields[number][1]

    def __setitem__(self, number: int, value: Any) -> None:
        self.fields[number] = (self.fields[number][0], value)


def decode_struct(data: bytes, start: int = 0) -> tuple[ThriftStruct, int]:
    """The struct that begins at an offset, and the offset of its end."""
    decoder = _Decoder(data, start)
    return decoder.value(STRUCT), decoder.position


class _Decoder:
    def __init__(self, data: bytes, position: int) -> None:
        self._data = data
        self.position = position

    def value(self, kind: int) -> Any:
        if kind == STRUCT:
            return ThriftStruct(dict(self._fields()))
        if kind == LIST:
            (head,) = self._take(1)
            count = head >> 4 if head >> 4 < 15 else self._varint()
            return ThriftList(head & 15, [self.value(head & 15) for _ in range(count)])
        if kind in INTEGERS:
            number = self._varint()
            return number >> 1 ^ -(number & 1)
        if kind == BINARY:
            return self._take(self._varint())
        return self._take({BYTE: 1, DOUBLE: 8, TRUE: 0, FALSE: 0}[kind])

    def _fields(self) -> Any:
        number = 0
        while (head := self._take(1)[0]) != 0:
            number = number + (head >> 4) if head >> 4 else self.value(INTEGERS[0])
            yield number, (head & 15, self.value(head & 15))

    def _varint(self) -> int:
        number = shift = 0
        while True:
            (byte,) = self._take(1)
            number |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return number

    def _take(self, count: int) -> bytes:
        self.position += count
        return self._data[self.position - count : self.position]


def encode_struct(struct: ThriftStruct) -> bytes:
    """The struct, with long field headers throughout."""
    return _encode(STRUCT, struct)


def _encode(kind: int, value: Any) -> bytes:
    if kind == STRUCT:
        fields = (
            bytes([kind]) + _zigzag(number) + _encode(kind, value) for number, (kind, value) in value.fields.items()
        )
        return b"".join(fields) + b"\0"
    if kind == LIST:
        count = len(value.values) if value.stated is None else value.stated
        return bytes([15 << 4 | value.kind]) + _varint(count) + b"".join(_encode(value.kind, v) for v in value.values)
    if kind in INTEGERS:
        return _zigzag(value)
    return _varint(len(value)) + value if kind == BINARY else bytes(value)


def _zigzag(number: int) -> bytes:
    return _varint(number << 1 if number >= 0 else ~(number << 1))


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number > 127:
        encoded.append(number & 127 | 128)
        number >>= 7
    return bytes([*encoded, number])
