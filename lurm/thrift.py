"""Thrift's compact protocol, as far as Parquet's footers and page headers need it: bytes to plain trees and back.

A struct is a dict from field number to (type, value); a list is a tuple (type of its members, members); whole numbers are ints. Unknown fields
come through as they are. https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md
"""

TRUE, FALSE, BYTE, I16, I32, I64, DOUBLE, BINARY, LIST, SET, MAP, STRUCT = range(1, 13)


def read_struct(data: bytes, place: int = 0) -> tuple[dict, int]:
    """The struct that begins at `place`, and the place behind it."""
    fields: dict[int, tuple] = {}
    number = 0
    while True:
        head = data[place]
        place += 1
        if head == 0:
            return fields, place
        kind = head & 15
        if head >> 4:
            number += head >> 4
        else:
            number, place = _read_int(data, place)
        if kind in (TRUE, FALSE):
            fields[number] = (kind, kind == TRUE)
        else:
            value, place = _read_value(data, place, kind)
            fields[number] = (kind, value)


def write_struct(fields: dict) -> bytes:
    """What `read_struct` reads; fields in the order of their numbers."""
    out, before = bytearray(), 0
    for number in sorted(fields):
        kind, value = fields[number]
        if kind in (TRUE, FALSE):
            kind = TRUE if value else FALSE
        if 0 < number - before < 16:
            out.append(number - before << 4 | kind)
        else:
            out.append(kind)
            out += _int(number)
        if kind not in (TRUE, FALSE):
            out += _value(kind, value)
        before = number
    out.append(0)
    return bytes(out)


def unsigned(value: int) -> bytes:
    """A number >= 0, seven bits a byte, the lowest first."""
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def _read_value(data: bytes, place: int, kind: int):
    if kind == STRUCT:
        return read_struct(data, place)
    if kind in (I16, I32, I64):
        return _read_int(data, place)
    if kind in (BYTE, TRUE, FALSE):
        return data[place], place + 1
    if kind == DOUBLE:
        return data[place : place + 8], place + 8
    if kind == BINARY:
        length, place = _read_unsigned(data, place)
        return data[place : place + length], place + length
    if kind not in (LIST, SET):
        raise ValueError(f"Expected a type of Parquet's metadata, got {kind} at byte {place}.")
    head = data[place]
    place += 1
    length = head >> 4
    if length == 15:
        length, place = _read_unsigned(data, place)
    members = []
    for _ in range(length):
        member, place = _read_value(data, place, head & 15)
        members.append(member)
    return (head & 15, members), place


def _value(kind: int, value) -> bytes:
    if kind == STRUCT:
        return write_struct(value)
    if kind in (I16, I32, I64):
        return _int(value)
    if kind in (BYTE, TRUE, FALSE):
        return bytes([value])
    if kind == DOUBLE:
        return value
    if kind == BINARY:
        return unsigned(len(value)) + value
    member_kind, members = value
    head = bytes([len(members) << 4 | member_kind]) if len(members) < 15 else bytes([15 << 4 | member_kind]) + unsigned(len(members))
    return head + b"".join(_value(member_kind, member) for member in members)


def _int(value: int) -> bytes:
    return unsigned((value << 1) ^ (value >> 63))  # zigzag: small negative numbers are short


def _read_int(data: bytes, place: int) -> tuple[int, int]:
    value, place = _read_unsigned(data, place)
    return (value >> 1) ^ -(value & 1), place


def _read_unsigned(data: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[place]
        place += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, place
        shift += 7
