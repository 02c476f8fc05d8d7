"""How moto writes its replies, with a third of the computing.

One rule: every reply keeps every byte.  What depends on the class and the place of a
value only, moto looks up for each value again; here it is looked up once.
Imported by the server only, with moto.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias
from xml.sax.saxutils import escape, quoteattr

from moto.core import responses, serialize, utils
from moto.core.serialize import (
    AttributePickerContext,
    ResponseSerializer,
    XFormedAttributePicker,
)
from moto.core.utils import MISSING, get_value  # type: ignore[attr-defined]

MOST_CLASSES = 256  # of responses, whose methods are kept
MOST_PLACES = 1 << 16  # of values in replies, whose possible names are kept
MOST_NAMES = 1 << 12  # of elements and attributes of XML
DECLARATION = '<?xml version="1.0" encoding="utf-8"?>\n'
USUAL = {"short_empty_elements": True, "pretty": False}  # how moto calls `unparse`

_GetValue: TypeAlias = Callable[[Any, Any, str, Any], Any]
_Place: TypeAlias = "tuple[type, str, Any]"  # class of the value, member, its shape
_Names: TypeAlias = "tuple[tuple[str, ...], Callable[..., Any]]"  # and what gets one
_NAME = re.compile(r"[A-Za-z_][\w.:-]*", re.ASCII)
_xmltodict = serialize.xmltodict  # type: ignore[attr-defined]  # moto requires it
_plain_unparse = _xmltodict.unparse


def install() -> None:
    """Replace what took half of the computing of a usual request (5.2, measured)."""
    listed = functools.lru_cache(MOST_CLASSES)(utils.method_names_from_class)
    responses.method_names_from_class = listed  # type: ignore[attr-defined]
    responses.XFormedAttributePicker = Picker  # type: ignore[attr-defined]
    ResponseSerializer.get_value = picking(ResponseSerializer.get_value)  # type: ignore[method-assign,assignment]
    _xmltodict.unparse = unparse


def picking(plain: _GetValue) -> _GetValue:
    """Return a serializer's `get_value` that leaves the search to its `Picker`."""

    def get_value(serializer: Any, value: Any, key: str, shape: Any) -> Any:
        picker = serializer._value_picker
        if isinstance(picker, Picker):
            return picker.pick(serializer.path, value, key, shape)
        return plain(serializer, value, key, shape)

    return get_value


class Picker(XFormedAttributePicker):
    """Finds a member of a value, as moto does, among the names it may have.

    The possible names depend on the class of the value and on the member's shape, of
    which there is one for each place in a reply.
    """

    _known: dict[_Place, _Names] = {}  # noqa: RUF012  of all replies

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # A path that is to be transformed ends with one of these, or with its dot.
        self._ends = tuple(
            path.rpartition(".")[2] for path in self.response_transformers
        )

    def pick(self, before: Sequence[str], value: Any, key: str, shape: Any) -> Any:
        """Return a member of a value, or None.

        Args:
            before: the path to the value.
            key, shape: of the member.
        """
        place = (value.__class__, key, shape)
        names, get = self._known.get(place) or self._listed(place, value)
        for name in names:
            if (found := get(value, name, MISSING)) is not MISSING:
                break
        else:
            found = None
        if key.endswith(self._ends):
            path = ".".join([*before, key])
            for end, transform in self.response_transformers.items():
                if path.endswith(end):
                    return transform(found)
        return found

    def _listed(self, place: _Place, value: Any) -> _Names:
        _, key, shape = place
        context = AttributePickerContext(obj=value, key=key, shape=shape)
        names = tuple(dict.fromkeys(self.get_possible_keys(context)))
        has_items = hasattr(value, "__getitem__") or any("." in name for name in names)
        if len(self._known) >= MOST_PLACES:
            self._known.clear()
        self._known[place] = found = names, get_value if has_items else getattr
        return found


def unparse(value: Mapping[str, Any], *args: Any, **options: Any) -> Any:
    """Return the XML of a value, as `xmltodict.unparse` does.

    What is not as usual in moto's replies is left to that function.
    """
    whole = options.pop("full_document", True)
    if not args and options == USUAL:
        parts = [DECLARATION] if whole else []
        try:
            if whole and [isinstance(each, list) for each in value.values()] != [False]:
                raise _Unusual  # there is one root
            for name, content in value.items():
                _write(parts, name, content)
            return "".join(parts)
        except _Unusual:
            pass
    return _plain_unparse(value, *args, full_document=whole, **options)


class _Unusual(Exception):
    """Something in a value is no mapping, list, text, number or truth."""


def _write(parts: list[str], name: str, content: Any) -> None:
    """Write an element, or one for each item of a list."""
    if not _is_name(name):
        raise _Unusual
    for item in content if isinstance(content, list) else (content,):
        if isinstance(item, dict):
            _write_members(parts, name, item)
        elif item is None or item == "":
            parts.append(f"<{name}/>")
        elif isinstance(item, str):
            parts.append(f"<{name}>{escape(item)}</{name}>")
        elif isinstance(item, bool):
            parts.append(f"<{name}>{'true' if item else 'false'}</{name}>")
        elif isinstance(item, (int, float)):
            parts.append(f"<{name}>{item!s}</{name}>")
        else:
            raise _Unusual


def _write_members(parts: list[str], name: str, members: dict[str, Any]) -> None:
    attributes = ""
    place = len(parts)
    parts += ("", "")
    for key, value in members.items():
        if isinstance(key, str) and key.startswith("@"):
            if not isinstance(value, str) or not _is_name(key[1:]):
                raise _Unusual
            attributes += f" {key[1:]}={quoteattr(value)}"
        else:
            _write(parts, key, value)
    is_empty = len(parts) == place + 2
    parts[place : place + 2] = f"<{name}{attributes}", "/>" if is_empty else ">"
    if not is_empty:
        parts.append(f"</{name}>")


@functools.lru_cache(MOST_NAMES)
def _is_name(name: object) -> bool:
    return isinstance(name, str) and _NAME.fullmatch(name) is not None
