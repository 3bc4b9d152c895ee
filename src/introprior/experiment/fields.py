"""What the models of the configuration and of jobs' options are made of: strict fields, mistakes told in one line."""

from __future__ import annotations

import re
import types
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal, Self, TypeVar, get_args, get_origin

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, Strict, ValidationError
from pydantic_core import PydanticCustomError

from introprior.errors import UserError, one_line, unknown
from introprior.experiment import cells

Value = TypeVar("Value")


class Model(BaseModel):
    """A section of keys: unknown ones are refused, and values of another type, too (2.0 is no whole number)."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, validate_default=False)

    @classmethod
    def read(cls, values: Any, where: str) -> Self:
        """From plain values; ``where`` opens the message.

        Raises:
            UserError: the first thing that is wrong: the path of the key, what is wrong with it, what is allowed.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise explained(error, cls, where) from None

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
    bounds = {key: about.pop(key) for key in ("ge", "gt", "le", "lt", "pattern", "max_length") if key in about}
    return Field(default, description=text, json_schema_extra=about or None, validate_default=False, **bounds)


# ---- Kinds of values ----

MOST = 10**9
Natural = Annotated[int, Field(ge=0, le=MOST)]
Count = Annotated[int, Field(ge=1, le=MOST)]
Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


def wrong(at: str, problem: str) -> PydanticCustomError:
    """The error of a check: ``at`` is the key within the section or list that is checked, empty for itself."""
    return PydanticCustomError("wrong", "{problem}", {"at": at, "problem": problem})


def _unique(values: tuple[Value, ...]) -> tuple[Value, ...]:
    for i, value in enumerate(values):
        if value in values[:i]:
            raise wrong("", f"{shown(value)} is there more than once; keep it once")
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


def _all_or(kind: str) -> BeforeValidator:
    types_ = {"list": list, "number": int}[kind]

    def check(value: Any) -> Any:
        if value != "all" and (not isinstance(value, types_) or isinstance(value, bool)):
            raise wrong("", f"must be all or a {kind}, is {shown(value)}")
        return value

    return BeforeValidator(check)


Listed = Annotated[tuple[Value, ...], Strict(False)]
Some = Annotated[Listed[Value], Field(min_length=1), AfterValidator(_unique)]
"""One or more different values."""
Rising = Annotated[Listed[Value], AfterValidator(_rising)]
Cell = Annotated[str, AfterValidator(_cell)]
AllOrSome = Annotated[Literal["all"] | Some[Value], _all_or("list")]
AllOrCount = Annotated[Literal["all"] | Count, _all_or("number")]


# ---- Mistakes, in the words of someone who writes YAML ----


def explained(error: ValidationError, model: type[BaseModel], where: str) -> UserError:
    """The first of the errors, in one line."""
    first = min(error.errors(), key=lambda each: "literal" in str(each["loc"][-1:]))  # of a union, not the word `all`
    path = [part for part in first["loc"] if not isinstance(part, str) or not re.search(r"[\[(-]|^int$", part)]
    path = path if len(path) == len(first["loc"]) else _without_tags(first["loc"], model)
    kind, value, limits = first["type"], first["input"], first.get("ctx", {})

    def at(*more: str | int) -> str:
        place = dotted([*path, *more])
        return ": ".join(filter(None, (where, place)))

    if kind == "extra_forbidden":
        *section, key = path
        place = ": ".join(filter(None, (where, dotted(section))))
        return unknown("key", str(key), _keys(model, section), place)
    if kind == "wrong":
        inner = limits["at"]
        full = dotted(path) + ("" if inner.startswith("[") or not path or not inner else ".") + inner
        return UserError(one_line(": ".join(filter(None, (where, full, limits["problem"])))))
    return UserError(one_line(f"{at()}: {_problem(kind, value, limits, first['msg'])}"))


def _problem(kind: str, value: Any, limits: Mapping[str, Any], message: str) -> str:
    if kind in _KINDS:
        problem = f"must be {_KINDS[kind]}, is {'the text ' * isinstance(value, str)}{shown(value)}"
        if isinstance(value, str) and kind == "float_type":
            problem += "; write numbers without quotes, and with a point before the exponent: 1.0e-8"
        return problem
    if kind in _BOUNDS:
        words, key = _BOUNDS[kind]
        return f"must be {words} {limits[key]}, is {shown(value)}"
    if kind == "missing":
        return "is missing"
    if kind == "literal_error":
        choices = re.findall(r"'([^']*)'|(True|False|\d+)", limits["expected"])
        return f"must be one of {', '.join(word or plain.lower() for word, plain in choices)}; is {shown(value)}"
    if kind in ("too_short", "too_long"):
        bound = limits.get("min_length", limits.get("max_length"))
        return "must not be empty" if bound == 1 else f"must have {bound} values, has {limits['actual_length']}"
    if kind == "finite_number":
        return f"must be finite, is {value}"
    if kind == "string_pattern_mismatch":
        return f"{shown(value)} will not do; it must match {limits['pattern']}"
    if kind == "string_too_long":
        return f"must have at most {limits['max_length']} characters, has {len(value)}"
    return f"{shown(value)} will not do ({message})"


_KINDS = {
    **dict.fromkeys(("model_type", "dict_type", "model_attributes_type"), "a section of keys"),
    **dict.fromkeys(("tuple_type", "list_type"), "a list"),
    **dict.fromkeys(("int_type", "int_from_float", "int_parsing_size"), "a whole number"),
    **dict.fromkeys(("float_type", "float_parsing"), "a number"),
    "string_type": "text",
    "bool_type": "true or false",
}
_BOUNDS = {
    "greater_than_equal": ("at least", "ge"),
    "greater_than": ("above", "gt"),
    "less_than_equal": ("at most", "le"),
    "less_than": ("below", "lt"),
}


def _without_tags(location: Sequence[str | int], model: type[BaseModel]) -> list[str | int]:
    """A location without the names that pydantic gives to branches of unions and validators."""
    return [part for part in location if isinstance(part, int) or not re.search(r"[\[(]|^int$|^constrained-", part)]


def _keys(model: Any, path: Sequence[str | int]) -> list[str]:
    """The keys that the section at ``path`` may have."""
    for part in path:
        annotation = model.model_fields[part].annotation if part in getattr(model, "model_fields", {}) else model
        model = _inner(annotation)
    return list(getattr(model, "model_fields", {}))


def _inner(annotation: Any) -> Any:
    """The model within an annotation such as ``dict[str, Model]`` or ``Model | None``."""
    if (
        isinstance(annotation, type)
        and issubclass(annotation, BaseModel)
        and not isinstance(annotation, types.GenericAlias)
    ):
        return annotation
    found = [_inner(part) for part in get_args(annotation)] if get_origin(annotation) is not None else []
    return next((part for part in found if part is not None), None)


def dotted(path: Iterable[str | int]) -> str:
    """A path as people write it, e.g. ``density.seeds[2]``."""
    return "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path).lstrip(".")


def shown(value: object, none: str = "empty") -> str:
    """A value as YAML would have it, shortened; ``none`` for None."""
    import yaml

    if value is None:
        return none
    text = yaml.safe_dump(plain(value), default_flow_style=True, width=10**9).removesuffix("...\n").strip()
    return text if len(text) <= 80 else text[:77] + "..."


def plain(value: Any) -> Any:
    """Tuples as lists, all the way down; what YAML has no word for as text."""
    if isinstance(value, Mapping):
        return {str(key): plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def listed(values: Iterable[object]) -> str:
    """Values with commas between them."""
    return ", ".join(map(shown, values))
