"""Whether a value read from JSON has the types that were once written.

One rule: pure, and total: it takes any value of JSON.
"""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import (
    Any,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

T = TypeVar("T")


def fits(value: object, hint: Any) -> bool:
    """Return whether a value of JSON is of the type `hint`.

    Args:
        hint: of bool, int, float, str, None, list, tuple, dict, TypedDict, unions of
            these; or object, for anything.
    """
    if get_origin(hint) in (Union, types.UnionType):
        return any(fits(value, each) for each in get_args(hint))
    if get_origin(hint) in (list, tuple):
        inner = get_args(hint)[0]
        return isinstance(value, (list, tuple)) and all(fits(v, inner) for v in value)
    if get_origin(hint) is dict:
        inner = get_args(hint)[1]
        return isinstance(value, dict) and all(fits(v, inner) for v in value.values())
    if is_typeddict(hint):
        return isinstance(value, dict) and not misfit(value, hint)
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, type(None) if hint is None else hint)


def misfit(value: Mapping[str, object], shape: Any) -> str:
    """Return which name of a TypedDict is missing or has another type in `value`."""
    hints = get_type_hints(shape)
    wrong = (n for n in hints if n in value and not fits(value[n], hints[n]))
    missing = (n for n in shape.__required_keys__ if n not in value)
    return next(wrong, "") or next(missing, "")


def made(kind: type[T], value: object) -> T:
    """Return the dataclass `kind` made of a JSON object.

    Raises:
        ValueError: it is no object, or not of this kind; or `kind` itself refuses it.
    """
    assert is_dataclass(kind)
    hints = get_type_hints(kind)
    if not isinstance(value, dict) or not value.keys() <= hints.keys():
        raise ValueError(f"is no {kind.__name__}")
    for each in fields(kind):
        optional = each.default is not MISSING or each.default_factory is not MISSING
        if each.name not in value and optional:
            continue
        if each.name not in value or not fits(value[each.name], hints[each.name]):
            raise ValueError(f"has no such {each.name}")
    return kind(**value)
