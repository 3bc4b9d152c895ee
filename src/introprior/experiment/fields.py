"""What the models of the configuration and of jobs' options are made of: strict fields, mistakes told in one line."""

from __future__ import annotations

import os
import re
import reprlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
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


class Part(Model):
    """What somebody looks at of a section; what else that holds is passed over."""

    model_config = ConfigDict(extra="ignore")


def option(default: Any, text: str, **about: Any) -> Any:
    """A field: its default, what it is, and what it is marked as: ``half`` (density, images), ``stage`` (game)."""
    return Field(default, description=text, json_schema_extra=about or None)


def wrong(at: str, problem: str) -> PydanticCustomError:
    """The error of a check: ``at`` is the key within the section or list that is checked, empty for itself."""
    return PydanticCustomError("wrong", "{problem}", {"at": at, "problem": problem})


@contextmanager
def blamed(at: str = "") -> Iterator[None]:
    """Make a UserError that blames no place the error of a check, as :func:`wrong` does."""
    try:
        yield
    except UserError as error:
        raise wrong(at, str(error).removeprefix(": ")) from None


# ---- Kinds of values ----

Natural = Annotated[int, Field(ge=0, le=10**9)]
Count = Annotated[int, Field(ge=1, le=10**9)]
Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False), AfterValidator(abs)]  # no -0.0, which has another text
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Epochs = Annotated[Count, Field(le=10_000)]
Size = Annotated[Count, Field(le=10**6)]
Width = Annotated[Count, Field(le=10**5)]
Side = Annotated[int, Field(ge=4, le=1024)]
"""Of square images, in pixels."""
Grid = Annotated[int, Field(ge=2, le=20_000)]
Text = Annotated[str, Field(min_length=1)]
NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
Name = Annotated[str, Field(max_length=100, pattern=NAME)]
"""Of a folder."""
RESOURCE = r"^[a-z][a-z_]*$"
Resource = Annotated[str, Field(pattern=RESOURCE)]
"""Of Snakemake's, by name."""
DEVICE = r"^(auto|cpu|cuda(:[0-9]{1,4})?)$"
Device = Annotated[str, Field(pattern=DEVICE)]


def _different(values: tuple[Value, ...]) -> tuple[Value, ...]:
    seen: set[Value] = set()
    for value in values:
        if value in seen:
            raise wrong("", f"{shown(value)} is there more than once; keep it once")
        seen.add(value)
    return values


def _rising(values: tuple[Any, ...]) -> tuple[Any, ...]:
    if list(values) != sorted(values):
        raise wrong("", f"must rise, is {shown(list(values))}")
    return values


def expanded(path: str) -> str:
    """A path with ``~`` and variables such as ``$HOME`` replaced, those that there are."""
    return os.path.expanduser(os.path.expandvars(path))


def _path_text(text: str) -> str:
    path = expanded(text)
    if not path.isprintable():
        raise wrong("", f"has characters that no path should have, is {shown(path)}")
    if not path:
        raise wrong("", f"is an empty path, since {shown(text)} is; give the variable a value")
    return path


def _cell(name: str) -> str:
    with blamed():
        cells.Cell.parse(name, "")
    return name


PathText = Annotated[str, Field(min_length=1), AfterValidator(_path_text)]
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
AllOrSome = Annotated[Some[Value] | Literal["all"], Field()]
AllOrCount = Count | Literal["all"]


# ---- Mistakes, in the words of someone who writes YAML ----

_WORDS = {
    r"^\w+ should ": "must ",
    "greater than or equal to": "at least",
    "greater than": "above",
    "less than or equal to": "at most",
    "less than": "below",
    " after validation": "",
    r"have at least 1 \w+(, not 0)?": "not be empty",
    "a finite number": "finite",
    "a valid string": "text",
    "valid number": "number",
    "valid integer": "whole number",
    "valid tuple": "list",
    "valid dictionary.*": "section of keys",
    "a valid boolean": "true or false",
    "^Field required": "is missing; give it",
    f"match pattern '{re.escape(NAME)}'": "have letters, digits, '.', '_' and '-' alone, a letter or digit first",
    f"match pattern '{re.escape(RESOURCE)}'": "have small letters and '_' alone, a letter first",
    f"match pattern '{re.escape(DEVICE)}'": "be auto, cpu, cuda or cuda:N",
}
"""What pydantic says, and we instead."""


def explained(error: ValidationError, values: Any, where: str) -> UserError:
    """The first of the errors in ``values``, in one line."""
    errors = error.errors(include_url=False)
    path, first = _path(errors[0]["loc"], values), errors[0]
    if first["type"] == "wrong":
        at, problem = first["ctx"]["at"], first["ctx"]["problem"]
        path += f".{at}" if path and at and not at.startswith("[") else at
    else:
        # Where kinds of values are to choose from, as with a number or all, each has an error of its own.
        problem = " or ".join(_ours(each["msg"]) for each in errors if _path(each["loc"], values) == path)
        if first["type"] != "missing":
            problem += f", is {shown(first['input'])}"
        if first["type"] == "float_type" and isinstance(first["input"], str):
            problem += "; write numbers without quotes, and with a point before the exponent: 1.0e-8"
    return UserError(one_line(": ".join(filter(None, (where, cut(path, 200), problem)))))


def _ours(message: str) -> str:
    for theirs, ours in _WORDS.items():
        message = re.sub(theirs, ours, message)
    return message


def _path(location: Iterable[str | int], values: Any) -> str:
    """A location as people write it, such as ``density.seeds[2]``; pydantic has names of validators among the keys."""
    path = ""
    for part in location:
        if isinstance(values, Mapping) and isinstance(part, str):
            path, values = f"{path}.{part}", values.get(part)
        elif isinstance(values, list | tuple) and isinstance(part, int):
            path, values = f"{path}[{part}]", values[part] if part < len(values) else None
    return path.lstrip(".")


_BRIEF = reprlib.Repr()
_BRIEF.maxstring = _BRIEF.maxother = 80


def shown(value: object) -> str:
    """A value, shortened; ``empty`` for None, as nothing stands there in YAML."""
    return "empty" if value is None else _BRIEF.repr(list(value) if isinstance(value, tuple) else value)
