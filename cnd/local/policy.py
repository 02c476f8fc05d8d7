"""IAM policies: what a document allows, as AWS evaluates it.

One rule: pure functions over documents and contexts; a document that is not understood
completely is refused when it is read.  `cnd.local.api.permissions` says what a call
needs.

https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_evaluation-logic.html
https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_elements_condition_operators.html
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from cnd.errors import UsageError

VERSIONS = ("2012-10-17", "2008-10-17")
MOST_BYTES = 1 << 16
HINT = "--policy FILE: a policy document of IAM in JSON, as in docs/aws.md"
ELEMENTS = {
    *("Sid", "Effect", "Action", "NotAction", "Resource", "NotResource", "Condition"),
}
FOR_ALL, FOR_ANY, IF_EXISTS = "ForAllValues:", "ForAnyValue:", "IfExists"

Context = Mapping[str, Sequence[str]]  # key in lower case -> its values


def _number(holds: Callable[[float, float], bool]) -> Callable[[str, str], bool]:
    def compare(value: str, wanted: str) -> bool:
        try:
            return holds(float(value), float(wanted))
        except ValueError:
            return False

    return compare


# Operator -> whether a value of the request is one that the policy wants.
POSITIVE: Mapping[str, Callable[[str, str], bool]] = {
    "StringEquals": lambda value, wanted: value == wanted,
    "StringEqualsIgnoreCase": lambda value, wanted: value.lower() == wanted.lower(),
    "StringLike": lambda value, wanted: is_like(value, wanted),
    "ArnEquals": lambda value, wanted: is_like(value, wanted),
    "ArnLike": lambda value, wanted: is_like(value, wanted),
    "Bool": lambda value, wanted: value.lower() == wanted.lower(),
    "NumericEquals": _number(lambda value, wanted: value == wanted),
    "NumericLessThan": _number(lambda value, wanted: value < wanted),
    "NumericLessThanEquals": _number(lambda value, wanted: value <= wanted),
    "NumericGreaterThan": _number(lambda value, wanted: value > wanted),
    "NumericGreaterThanEquals": _number(lambda value, wanted: value >= wanted),
}
# Operator -> its opposite: it holds if no wanted value is equal, or none is there.
NEGATIVE: Mapping[str, str] = {
    "StringNotEquals": "StringEquals",
    "StringNotEqualsIgnoreCase": "StringEqualsIgnoreCase",
    "StringNotLike": "StringLike",
    "ArnNotEquals": "ArnEquals",
    "ArnNotLike": "ArnLike",
    "NumericNotEquals": "NumericEquals",
}


@dataclass(frozen=True)
class Condition:
    operator: str  # without prefix and suffix
    key: str  # in lower case
    values: tuple[str, ...]
    of_set: str = ""  # FOR_ALL or FOR_ANY
    if_exists: bool = False

    def holds(self, context: Context) -> bool:
        given = context.get(self.key)
        if self.operator == "Null":
            return (given is None) == (self.values[0].lower() == "true")
        if given is None and self.if_exists:
            return True
        if self.of_set == FOR_ALL:
            return all(self._is_wanted(value) for value in given or ())
        if self.of_set == FOR_ANY:
            return any(self._is_wanted(value) for value in given or ())
        if given is None:
            return self.operator in NEGATIVE
        return all(self._is_wanted(value) for value in given)

    def _is_wanted(self, value: str) -> bool:
        positive = POSITIVE[NEGATIVE.get(self.operator, self.operator)]
        found = any(positive(value, wanted) for wanted in self.values)
        return found != (self.operator in NEGATIVE)


@dataclass(frozen=True)
class Statement:
    allows: bool
    actions: tuple[str, ...]
    resources: tuple[str, ...]
    conditions: tuple[Condition, ...] = ()
    not_actions: bool = False  # all actions but these
    not_resources: bool = False

    def applies(self, action: str, resource: str, context: Context) -> bool:
        named = any(is_like(action.lower(), each.lower()) for each in self.actions)
        on = any(is_like(resource, each) for each in self.resources)
        return (
            named != self.not_actions
            and on != self.not_resources
            and all(condition.holds(context) for condition in self.conditions)
        )


EVERYTHING = Statement(True, ("*",), ("*",))


@dataclass(frozen=True)
class Policy:
    """What the caller may do; without statements everything."""

    path: str = ""
    statements: tuple[Statement, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.statements)

    def within(self, regions: tuple[str, ...]) -> Policy:
        """Return the same, with all that is outside of these regions denied.

        Without regions nothing more is denied.
        """
        if not regions:
            return self
        elsewhere = Condition("StringNotEquals", "aws:requestedregion", regions)
        denied = Statement(False, ("*",), ("*",), (elsewhere,))
        return Policy(self.path, (*(self.statements or (EVERYTHING,)), denied))


@dataclass(frozen=True)
class Need:
    """One authorization that a call needs: an action on a resource."""

    action: str  # "ec2:RunInstances"
    resource: str = "*"  # an ARN
    context: Context = field(default_factory=dict)


def refused(policy: Policy, needs: Iterable[Need]) -> tuple[Need, bool] | None:
    """Return the first need that a policy does not grant, and if it is denied so.

    A denial counts more than any allowance; without an allowance nothing is granted.
    """
    for need in needs:
        fitting = [
            statement
            for statement in policy.statements
            if statement.applies(need.action, need.resource, need.context)
        ]
        if any(not statement.allows for statement in fitting):
            return need, True
        if not fitting:
            return need, False
    return None


@lru_cache(4096)
def _pattern(wanted: str) -> re.Pattern[str]:
    parts = (".*" if c == "*" else "." if c == "?" else re.escape(c) for c in wanted)
    return re.compile("".join(parts), re.DOTALL)


def is_like(value: str, wanted: str) -> bool:
    """Tell whether a value fits a pattern with * and ?."""
    return _pattern(wanted).fullmatch(value) is not None


def read(path: str) -> Policy:
    """Return the policy in a file; an empty path: everything.  Raises UsageError."""
    if not path:
        return Policy()
    try:
        with Path(path).open("rb") as file:
            content = file.read(MOST_BYTES + 1)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise UsageError(f"--policy {path}: {reason}", hint=HINT) from error
    if len(content) > MOST_BYTES:
        raise UsageError(f"--policy {path}: more than {MOST_BYTES} bytes", hint=HINT)
    try:
        return Policy(str(Path(path).absolute()), parsed(json.loads(content)))
    except (ValueError, RecursionError) as error:
        raise UsageError(f"--policy {path}: {error}", hint=HINT) from error


def parsed(document: Any) -> tuple[Statement, ...]:
    """Return the statements of a document; ValueError if it is no valid policy."""
    if not isinstance(document, dict) or document.get("Version") not in VERSIONS:
        raise ValueError(f"it is no object with a Version of {' or '.join(VERSIONS)}")
    statements = document.get("Statement")
    if isinstance(statements, dict):
        statements = [statements]
    if not isinstance(statements, list) or not statements:
        raise ValueError("it has no Statement")
    return tuple(_statement(each) for each in statements)


def _statement(raw: Any) -> Statement:
    if not isinstance(raw, dict):
        raise ValueError(f"a statement is an object, not {raw!r}")
    if unknown := sorted(raw.keys() - ELEMENTS):
        raise ValueError(f"a statement has no {unknown[0]!r}")
    if raw.get("Effect") not in ("Allow", "Deny"):
        raise ValueError(f"Effect is Allow or Deny, not {raw.get('Effect')!r}")
    actions, not_actions = _either(raw, "Action")
    resources, not_resources = _either(raw, "Resource")
    conditions = raw.get("Condition", {})
    if not isinstance(conditions, dict):
        raise ValueError("a Condition is an object")
    found = [
        _condition(operator, key, values)
        for operator, keys in conditions.items()
        for key, values in (keys.items() if isinstance(keys, dict) else [("", "")])
    ]
    return Statement(
        allows=raw["Effect"] == "Allow",
        actions=actions,
        resources=resources,
        conditions=tuple(found),
        not_actions=not_actions,
        not_resources=not_resources,
    )


def _either(raw: Mapping[str, Any], name: str) -> tuple[tuple[str, ...], bool]:
    """Return the values of an element, and if it is the one that begins with Not."""
    given = [each for each in (name, f"Not{name}") if each in raw]
    if len(given) != 1:
        raise ValueError(f"a statement has either {name} or Not{name}")
    return _texts(raw[given[0]], given[0]), given[0] != name


def _texts(value: Any, name: str) -> tuple[str, ...]:
    values = value if isinstance(value, list) else [value]
    if not values or not all(isinstance(each, (str, bool, int)) for each in values):
        raise ValueError(f"{name} is a text or a list of texts, not {value!r}")
    return tuple(
        str(each).lower() if isinstance(each, bool) else str(each) for each in values
    )


def _condition(name: str, key: str, values: Any) -> Condition:
    of_set = next((each for each in (FOR_ALL, FOR_ANY) if name.startswith(each)), "")
    operator = name.removeprefix(of_set)
    if_exists = operator.endswith(IF_EXISTS)
    operator = operator.removesuffix(IF_EXISTS)
    if operator not in {*POSITIVE, *NEGATIVE, "Null"} or not key:
        raise ValueError(f"the condition {name!r} is none that the local cloud knows")
    return Condition(operator, key.lower(), _texts(values, key), of_set, if_exists)
