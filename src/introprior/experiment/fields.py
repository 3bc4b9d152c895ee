"""What the models of the configuration and of jobs' options are made of: strict fields, mistakes told in one line."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from introprior.errors import UserError, cut, one_line, unknown
from introprior.experiment import cells

Value = TypeVar("Value")


class Model(BaseModel):
    """A section of keys: unknown ones are refused, and values of another type, too (2.0 is no whole number)."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    @model_validator(mode="before")
    @classmethod
    def _known(cls, values: Any) -> Any:
        if isinstance(values, Mapping) and cls.model_config["extra"] == "forbid":
            for key in values:
                if key not in cls.model_fields:
                    raise wrong("", str(unknown("key", key, cls.model_fields)))
        return values

    @classmethod
    def read(cls, values: Any, where: str) -> Self:
        """From plain values; ``where`` opens the message.

        Raises:
            UserError: the first thing that is wrong: the path of the key, what is wrong with it, what is allowed.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise explained(error, values, where) from None

    def dump(self, **about: str) -> dict[str, Any]:
        """As plain values, without the fields that are marked (:func:`option`) as of another ``half`` or ``stage``."""
        marks = {name: field.json_schema_extra for name, field in type(self).model_fields.items()}
        left_out = {
            name
            for name, mark in marks.items()
            if isinstance(mark, dict) and any(mark.get(key, value) != value for key, value in about.items())
        }
        return self.model_dump(mode="json", exclude=left_out)


def option(default: Any, text: str, **about: Any) -> Any:
    """A field: its default, what it is, and what it is marked as: ``half`` (density, images), ``stage`` (game)."""
    return Field(default, description=text, json_schema_extra=about or None)


def wrong(at: str, problem: str) -> PydanticCustomError:
    """The error of a check: ``at`` is the key within the section or list that is checked, empty for itself."""
    return PydanticCustomError("wrong", "{problem}", {"at": at, "problem": problem})


# ---- Kinds of values ----

MOST = 10**9
Natural = Annotated[int, Field(ge=0, le=MOST)]
Count = Annotated[int, Field(ge=1, le=MOST)]
Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False), AfterValidator(abs)]  # no -0.0, which has another text
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Text = Annotated[str, Field(min_length=1)]
_NAME, _DEVICE = r"^[A-Za-z0-9][A-Za-z0-9._-]*$", r"^(auto|cpu|cuda(:[0-9]{1,4})?)$"
Name = Annotated[str, Field(max_length=100, pattern=_NAME)]
"""Of a folder."""
Device = Annotated[str, Field(pattern=_DEVICE)]


def _different(values: tuple[Value, ...]) -> tuple[Value, ...]:
    met = set()
    for value in values:
        if value in met:
            raise wrong("", f"{shown(value)} is there more than once; keep it once")
        met.add(value)
    return values


def _rising(values: tuple[Any, ...]) -> tuple[Any, ...]:
    if list(values) != sorted(values):
        raise wrong("", f"must rise, are {listed(values)}")
    return values


def _cell(name: str) -> str:
    try:
        cells.parse(name, "")
    except UserError as error:
        raise wrong("", str(error).removeprefix(": ")) from None
    return name


def _all_or(kind: type, word: str) -> BeforeValidator:
    def check(value: Any) -> Any:
        if value != "all" and (not isinstance(value, kind) or isinstance(value, bool)):
            raise wrong("", f"must be all or a {word}, is {shown(value)}")
        return value

    return BeforeValidator(check)


_LIST = BeforeValidator(lambda value: tuple(value) if isinstance(value, list) else value)
Listed = Annotated[tuple[Value, ...], _LIST]
OneOrMore = Annotated[tuple[Value, ...], Field(min_length=1), _LIST]
Some = Annotated[OneOrMore[Value], AfterValidator(_different)]
"""One or more different values."""
Rising = Annotated[Listed[Value], AfterValidator(_rising)]
SomeRising = Annotated[OneOrMore[Value], AfterValidator(_rising)]
FewAndMany = Annotated[tuple[Count, ...], Field(min_length=2, max_length=2), _LIST, AfterValidator(_rising)]
Three = Annotated[tuple[Count, Count, Count], _LIST]
ThreeWeights = Annotated[tuple[Positive, Positive, Positive], _LIST]
Cell = Annotated[str, AfterValidator(_cell)]
AllOrCell = Annotated[str, AfterValidator(lambda name: name if name == "all" else _cell(name))]
AllOrSome = Annotated[Some[Value] | Literal["all"], _all_or(list | tuple, "list")]
AllOrCount = Annotated[Count | Literal["all"], _all_or(int, "number")]


# ---- Mistakes, in the words of someone who writes YAML ----


def explained(error: ValidationError, values: Any, where: str) -> UserError:
    """The first of the errors in ``values``, in one line."""
    first = error.errors(include_url=False)[0]
    path = _path(first["loc"], values)
    limits = first.get("ctx", {})
    if first["type"] == "wrong":
        problem, at = limits["problem"], limits["at"]
        path += f".{at}" if path and at and not at.startswith("[") else at
    else:
        problem = _problem(first["type"], first["input"], limits, first["msg"])
    return UserError(one_line(": ".join(filter(None, (where, path.lstrip("."), problem)))))


def _path(location: Iterable[str | int], values: Any) -> str:
    """A location as people write it, such as ``density.seeds[2]``; pydantic has names of validators among the keys."""
    path = ""
    for part in location:
        if isinstance(values, Mapping) and isinstance(part, str):
            path, values = f"{path}.{part}", values.get(part)
        elif isinstance(values, list | tuple) and isinstance(part, int):
            path, values = f"{path}[{part}]", values[part] if part < len(values) else None
    return path.lstrip(".")


def _problem(kind: str, value: Any, limits: Mapping[str, Any], message: str) -> str:
    if kind == "finite_number" or (kind == "float_type" and type(value) is int):  # more than a double can hold
        return f"must be finite, is {shown(value)}"
    if kind in _KINDS:
        problem = f"must be {_KINDS[kind]}, is {'the text ' * isinstance(value, str)}{shown(value)}"
        if isinstance(value, str) and kind == "float_type":
            problem += "; write numbers without quotes, and with a point before the exponent: 1.0e-8"
        return problem
    if kind in _BOUNDS:
        words, key = _BOUNDS[kind]
        return f"must be {words} {str(limits[key]).removesuffix('.0')}, is {shown(value)}"
    match kind:
        case "missing":
            return "is missing; give it"
        case "literal_error":
            choices = re.findall(r"'([^']*)'", limits["expected"])
            return f"must be one of {', '.join(choices)}; is {shown(value)}"
        case "too_short" | "too_long":
            bound = limits.get("min_length", limits.get("max_length"))
            short = bound == 1 and kind == "too_short"
            many = f"{bound} value{'s' * (bound != 1)}"
            return "must not be empty" if short else f"must have {many}, has {limits['actual_length']}"
        case "string_too_short":
            return "must not be empty"
        case "string_too_long":
            return f"must have at most {limits['max_length']} characters, has {len(value)}"
        case "string_pattern_mismatch":
            return f"must be {_WORDS[limits['pattern']]}, is {shown(value)}"
    return f"{shown(value)} will not do ({message})"


_KINDS = {
    **dict.fromkeys(("model_type", "dict_type"), "a section of keys"),
    **dict.fromkeys(("int_type", "int_from_float"), "a whole number"),
    "tuple_type": "a list",
    "float_type": "a number",
    "string_type": "text",
    "bool_type": "true or false",
}
_WORDS = {
    _NAME: "letters, digits, dots, hyphens and underscores, the first a letter or digit",
    _DEVICE: "auto, cpu, cuda or cuda:N",
}
_BOUNDS = {
    "greater_than_equal": ("at least", "ge"),
    "greater_than": ("above", "gt"),
    "less_than_equal": ("at most", "le"),
    "less_than": ("below", "lt"),
}


def shown(value: object) -> str:
    """A value as YAML would have it, shortened; ``empty`` for None."""
    import yaml

    if value is None:
        return "empty"
    return cut(yaml.safe_dump(_brief(value), default_flow_style=True, width=10**9).removesuffix("...\n").strip())


def _brief(value: Any, depth: int = 4) -> Any:
    """No more of a value than is shown, for it may be long or contain itself; what YAML has no word for as text."""
    if isinstance(value, str):
        return value[:100]
    if isinstance(value, Mapping | list | tuple) and not depth:
        return "..."
    if isinstance(value, Mapping):
        parts = itertools.islice(value.items(), 50)
        return {_brief(key, 0): _brief(part, depth - 1) for key, part in parts}
    if isinstance(value, list | tuple):
        return [_brief(part, depth - 1) for part in value[:50]]
    return value if isinstance(value, int | float | None) else str(value)


def listed(values: Iterable[object]) -> str:
    """Values with commas between them, shortened."""
    return cut(", ".join(map(shown, itertools.islice(values, 100))), 200)
