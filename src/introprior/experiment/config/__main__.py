"""Write what is made from the models: config/config.yaml, the JSON schema, and the key table of config/README.md."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from introprior.experiment.config import Configuration
from introprior.experiment.fields import plain

WIDTH = 128

HEAD = """\
# The paper, exactly. Everything can be changed here, or in a file that holds only what differs:
#
#     snakemake --cores 8 --configfile config/demo.yaml
#
# config/README.md lists every key; unknown keys are refused, and keys left out are as here. Changing a value reruns
# what depends on it, nothing else. (Made by `make config` from introprior/experiment/config, which has all defaults.)
"""
KEYS = "<!-- keys: made by `make config` -->\n"


def files() -> dict[str, str]:
    """The files and what they are to hold, relative to the project's folder."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **Configuration.model_json_schema()}
    readme = Path("config/README.md").read_text(encoding="utf-8")
    return {
        "config/config.yaml": HEAD + "\n".join(_yaml(Configuration, Configuration(), 0)).rstrip() + "\n",
        "config/config.schema.json": json.dumps(schema, indent=1, ensure_ascii=False) + "\n",
        "config/README.md": readme.partition(KEYS)[0] + KEYS + _table(),
    }


def _section(field: FieldInfo) -> type[BaseModel] | None:
    """The model of a field that is a section."""
    return field.annotation if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel) else None


def _fields(model: type[BaseModel]) -> dict[str, FieldInfo]:
    """The fields of a model, its own before those that it shares with others."""
    own = [name for name in model.model_fields if name in model.__annotations__]
    return {name: model.model_fields[name] for name in dict.fromkeys([*own, *model.model_fields])}


def _yaml(model: type[BaseModel], values: BaseModel, depth: int) -> Iterator[str]:
    indent = "  " * depth
    for name, field in _fields(model).items():
        value, section = getattr(values, name), _section(field)
        if depth == 0 and ((section and name != "protocol_overrides") or name in ("protocol", "device")):
            yield ""
        about = field.description or (section.__doc__ or "").partition("\n")[0] if section else field.description or ""
        if section and name != "protocol_overrides":
            yield f"{indent}# {about}"
            yield f"{indent}{name}:"
            yield from _yaml(section, value, depth + 1)
            continue
        lines = [f"{indent}{name}: {_value(value)}"]
        if isinstance(value, dict):  # one line for each dataset
            lines = [f"{indent}{name}:", *(f"{indent}  {key}: {_value(part)}" for key, part in value.items())]
        if len(lines) == 1 and len(lines[0]) + len(about) + 4 <= WIDTH:
            yield f"{lines[0]} # {about}"
        else:
            yield f"{indent}# {about}"
            yield from lines


def _value(value: Any) -> str:
    """As YAML, in one line; real numbers without a fraction as whole ones."""
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json", exclude_none=True)
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_value(part)}" for key, part in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_value, value)) + "]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, float):
        return (
            str(int(value))
            if value.is_integer()
            else repr(value)
            if "e" not in repr(value)
            else f"{value:.1e}".replace("e-0", "e-")
        )
    return str(value)


def _table() -> str:
    """All keys with their defaults and descriptions, in Markdown."""
    lines = ["| key | default | |", "| --- | --- | --- |"]

    def add(path: str, model: type[BaseModel], values: BaseModel | None) -> None:
        for name, field in _fields(model).items():
            key, section = f"{path}.{name}".lstrip("."), _section(field)
            value = getattr(values, name) if values is not None else None
            listing = isinstance(value, dict)
            shown = "" if section or listing or values is None else f"`{_value(plain(value))}`"
            choices = [choice for choice in get_args(field.annotation) if isinstance(choice, str)]
            words = f" One of `{'`, `'.join(choices)}`." if len(choices) > 1 else ""
            about = field.description or " ".join((section.__doc__ or "").split()) if section else field.description
            lines.append(f"| `{key}` | {shown} | {about}{words} |")
            if section:
                add(key, section, None if name == "protocol_overrides" else value)
            elif listing:
                inner = type(next(iter(value.values())))
                add(f"{key}.<dataset>", inner, None)

    add("", Configuration, Configuration())
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    for path, content in files().items():
        Path(path).write_text(content, encoding="utf-8")
