"""Typed Arrow columns as the text that a person would have written: the cells of a Parquet upload.

Numbers keep every digit, times are ISO 8601 in UTC, lists and structs are compact JSON. Null stays null.
"""

from decimal import Decimal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from batch_pipeline.payloads.texts import concat, concat_present, json_string, json_strings

# Numbers of this many digits before or after the point are written out; larger or smaller ones keep their exponent.
PLAIN_DIGITS = 21


def is_text(kind: pa.DataType) -> bool:
    """Whether the type is one of Arrow's texts."""
    return bool(pt.is_string(kind) or pt.is_large_string(kind) or pt.is_string_view(kind))


def unreadable_part(name: str, kind: pa.DataType) -> str | None:
    """The name (dotted for a part of a nested column) and type of what has no text; None if all of the column has."""
    if isinstance(kind, pa.UuidType):
        return None
    kind = _plain_type(kind)
    if pt.is_struct(kind):
        parts = (unreadable_part(f"{name}.{field.name}", field.type) for field in kind)
        return next((part for part in parts if part is not None), None)
    if pt.is_map(kind):
        return unreadable_part(f"{name} (keys)", kind.key_type) or unreadable_part(name, kind.item_type)
    if _is_list(kind):
        return unreadable_part(name, kind.value_type)
    readable = (
        is_text(kind)
        or pt.is_null(kind)
        or pt.is_boolean(kind)
        or pt.is_integer(kind)
        or pt.is_floating(kind)
        or pt.is_decimal(kind)
        or pt.is_timestamp(kind)
        or pt.is_date(kind)
        or pt.is_time(kind)
    )
    return None if readable else f"{name} ({kind})"


def depth_of(kind: pa.DataType) -> int:
    """How deep lists and structs are nested: 0 for a plain type."""
    if pt.is_struct(kind):
        return 1 + max((depth_of(field.type) for field in kind), default=0)
    if pt.is_map(kind):
        return 1 + depth_of(kind.item_type)
    return 1 + depth_of(kind.value_type) if _is_list(kind) else 0


def cell_texts(column: pa.Array) -> pa.StringArray:
    """The text of each value; null where it is null or NaN, by which some tools mean the same."""
    column = _stored(column)
    kind = column.type
    if pt.is_dictionary(kind):
        return cell_texts(column.dictionary).take(column.indices)
    return json_texts(column) if pt.is_struct(kind) or _is_list(kind) else _plain_texts(column)


def _plain_texts(column: pa.Array) -> pa.StringArray:
    kind = column.type
    if isinstance(kind, pa.UuidType):
        texts = _uuid_texts(column.storage)
    elif pt.is_timestamp(kind):
        texts = _time_texts(column.cast(pa.timestamp(kind.unit, "UTC")).cast(pa.string()))
    elif pt.is_date(kind):
        texts = concat(column.cast(pa.date32()).cast(pa.string()), "T00:00:00Z")
    elif pt.is_time(kind):
        texts = _time_texts(column.cast(pa.string()))
    elif pt.is_floating(kind):
        missing = pc.fill_null(pc.is_nan(column), True)
        texts = pc.if_else(missing, pa.scalar(None, pa.string()), column.cast(pa.string()))
        texts = _without_exponents(texts, up_to=PLAIN_DIGITS)
    elif pt.is_decimal(kind):
        texts = _without_exponents(column.cast(pa.string()), up_to=None)
    else:
        texts = column.cast(pa.string())
    return texts


def json_texts(column: pa.Array) -> pa.StringArray:
    """The JSON of each value, ``null`` within lists and maps; null where the whole value is null.

    A member of a struct that is null is left out: every row has all members of the column's type, so it says nothing.
    """
    column = _stored(column)
    kind = column.type
    if pt.is_dictionary(kind):
        return json_texts(column.dictionary).take(column.indices)
    if pt.is_struct(kind):
        members = [
            concat(f",{json_string(field.name)}:", json_texts(member))
            for field, member in zip(kind, column.flatten(), strict=True)
        ]
        joined = concat_present(*members) if members else pa.repeat(pa.scalar(""), len(column))
        texts = concat("{", pc.utf8_slice_codeunits(joined, 1), "}")
    elif _is_list(kind):
        brackets = "{}" if pt.is_map(kind) else "[]"
        lengths = pc.fill_null(pc.list_value_length(_as_list(column)), 0).to_numpy(zero_copy_only=False)
        offsets = np.concatenate(([0], np.cumsum(lengths))).astype(np.int32)
        joined = pc.binary_join(pa.ListArray.from_arrays(pa.array(offsets), _members(column)), ",")
        texts = concat(brackets[0], joined, brackets[1])
    else:
        texts = _plain_texts(column)
        if pt.is_floating(kind):  # JSON has no infinity
            return pc.if_else(pc.is_finite(column), texts, pa.scalar(None, pa.string()))
        if not (pt.is_integer(kind) or pt.is_decimal(kind) or pt.is_boolean(kind)):
            texts = json_strings(texts)
    return pc.if_else(column.is_valid(), texts, pa.scalar(None, pa.string()))


def _stored(column: pa.Array) -> pa.Array:
    """The values under an extension type that only says what they mean."""
    while isinstance(column.type, pa.BaseExtensionType) and not isinstance(column.type, pa.UuidType):
        column = column.storage
    return column


def _is_list(kind: pa.DataType) -> bool:
    return bool(
        pt.is_list(kind)
        or pt.is_large_list(kind)
        or pt.is_fixed_size_list(kind)
        or pt.is_list_view(kind)
        or pt.is_large_list_view(kind)
        or pt.is_map(kind)
    )


def _as_list(column: pa.Array) -> pa.Array:
    """A map as the list of pairs that it is; other lists themselves."""
    kind = column.type
    if not pt.is_map(kind):
        return column
    pairs = pa.struct([kind.key_field, kind.item_field])
    return column.cast(pa.list_(pa.field("entries", pairs, nullable=False)))


def _members(column: pa.Array) -> pa.StringArray:
    """The JSON of all members of all lists that are not null, or of all pairs of all maps."""
    flat = _as_list(column).flatten()
    if not pt.is_map(column.type):
        return pc.fill_null(json_texts(flat), "null")
    keys, values = flat.flatten()
    return concat(json_strings(cell_texts(keys)), ":", pc.fill_null(json_texts(values), "null"))


def _plain_type(kind: pa.DataType) -> pa.DataType:
    if isinstance(kind, pa.BaseExtensionType):
        return _plain_type(kind.storage_type)
    return _plain_type(kind.value_type) if pt.is_dictionary(kind) else kind


def _time_texts(texts: pa.StringArray) -> pa.StringArray:
    """Arrow's form of times as ISO 8601, without zeros at the end of a fraction."""
    texts = pc.replace_substring(texts, " ", "T", max_replacements=1)
    texts = pc.replace_substring_regex(texts, r"(\.\d*[1-9])0+(Z?)$", r"\1\2")
    return pc.replace_substring_regex(texts, r"\.0+(Z?)$", r"\1")


def _without_exponents(texts: pa.StringArray, *, up_to: int | None) -> pa.StringArray:
    """Arrow writes 1e15 as it is written here; a person's phone number has no exponent."""
    has_exponent = pc.match_substring(texts, "e", ignore_case=True)
    if not pc.any(has_exponent).as_py():
        return texts
    plain = []
    for text in texts.filter(has_exponent).to_pylist():
        number = Decimal(text)
        is_plain = up_to is None or abs(number.adjusted()) <= up_to
        plain.append(f"{number:f}" if is_plain else text)
    return pc.replace_with_mask(texts, pc.fill_null(has_exponent, False), pa.array(plain, pa.string()))


def _uuid_texts(column: pa.Array) -> pa.StringArray:
    """The canonical form: 8-4-4-4-12 hexadecimal digits."""
    size = 16
    given = column.drop_null()
    start = given.offset * size
    data = given.buffers()[1]
    digits = b"" if data is None else data.to_pybytes()[start : start + len(given) * size].hex().encode()
    hexadecimal = pa.array(np.frombuffer(digits, f"S{2 * size}").astype(str), pa.string())
    places = ((0, 8), (8, 12), (12, 16), (16, 20), (20, 32))
    texts = pc.binary_join_element_wise(*(pc.utf8_slice_codeunits(hexadecimal, *place) for place in places), "-")
    positions = np.cumsum(column.is_valid().to_numpy(zero_copy_only=False)) - 1
    return texts.take(pa.array(positions, mask=column.is_null().to_numpy(zero_copy_only=False)))
