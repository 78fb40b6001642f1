"""Check settings against the signature of the function that they are for.

Configuration files and command lines carry plain values; the functions that they reach say in
their signatures which names and types they take. Comparing the two before any work starts finds a
misspelt name or a word where a number belongs, also for functions that are added later.
"""

import inspect
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from expanders.errors import SettingError

_NAMES = {
    int: "an integer",
    float: "a number",
    bool: "true or false",
    str: "text",
    type(None): "null",
}


def check_arguments(target: Callable[..., Any], arguments: Mapping[str, Any], setting: str) -> None:
    """Check that `target` takes every one of `arguments` by name, with a value of that type.

    Args:
        target: a function or class.
        arguments: names and plain values; nested mappings are not looked into.
        setting: the name of their group on the command line, such as `degree`, or "".

    Raises:
        SettingError: with the first argument that does not fit.
    """
    parameters = inspect.signature(target).parameters
    constructor = inspect.getattr_static(target, "__init__") if isinstance(target, type) else target
    hints = get_type_hints(constructor)
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    for name, value in arguments.items():
        full_name = f"{setting}.{name}" if setting else name
        if name not in parameters and not takes_any:
            known = ", ".join(parameters)
            raise SettingError(full_name, value, f"no such setting here; there are: {known}")
        if name in hints and not _fits(value, hints[name]):
            raise SettingError(full_name, value, f"must be {_describe(hints[name])}")


def _fits(value: Any, hint: Any) -> bool:
    """Whether a plain value is of a type; types that no plain value can have are not judged."""
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        return any(_fits(value, option) for option in get_args(hint))
    if origin is Literal:
        return any(value == option and type(value) is type(option) for option in get_args(hint))
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint in (bool, str, type(None)):
        return isinstance(value, hint)
    if origin in (list, tuple, Sequence):
        return isinstance(value, Sequence) and not isinstance(value, str)
    # No plain value is an instance of another class; what is no class is not judged.
    return not (isinstance(hint, type) and (value is None or isinstance(value, str | int | float)))


def _describe(hint: Any) -> str:
    if get_origin(hint) in (Union, types.UnionType):
        options = [_describe(option) for option in get_args(hint) if _is_plain(option)]
        return " or ".join(options)
    if get_origin(hint) is Literal:
        return " or ".join(str(option) for option in get_args(hint))
    if get_origin(hint) in (list, tuple, Sequence):
        return "a list"
    return _NAMES.get(hint, str(hint))


def _is_plain(hint: Any) -> bool:
    return hint in _NAMES or get_origin(hint) in (list, tuple, Sequence, Literal)
