"""Write what is made from the models: config/config.yaml, the JSON schema, and the key table of config/README.md."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from introprior.experiment.config import Configuration
from introprior.experiment.fields import Model

WIDTH = 128

HEAD = """\
# The paper, exactly. What is to differ goes into a file that holds nothing else, such as config/demo.yaml:
#
#     snakemake --cores 8 --configfile config/demo.yaml
#
# config/README.md lists every key; unknown keys are refused. Changing a value reruns what depends on it, nothing else.
# (Made by `make config` from introprior.experiment.config, which has all defaults.)

"""
KEYS = "<!-- made by `make config` -->\n"
TABLE = ("| key | default | |", "| --- | --- | --- |")


def files(folder: Path) -> dict[Path, str]:
    """The files in ``folder``, and what each is to hold."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **_pruned(Configuration.model_json_schema())}
    readme = folder / "README.md"
    table = "\n".join([*TABLE, *_rows("", Configuration, Configuration())])
    return {
        folder / "config.yaml": HEAD + "\n".join(_yaml(Configuration())) + "\n",
        folder / "config.schema.json": json.dumps(schema, indent=1) + "\n",
        readme: readme.read_text(encoding="utf-8").partition(KEYS)[0] + KEYS + table + "\n",
    }


def _pruned(schema: Any) -> Any:
    """Without titles, which repeat the names of keys, and defaults of sections, which repeat those of their keys."""
    if isinstance(schema, list):
        return [_pruned(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: _pruned(part)
        for key, part in schema.items()
        if not (key == "title" and isinstance(part, str)) and not (key == "default" and isinstance(part, dict))
    }


def _fields(model: type[Model]) -> dict[str, FieldInfo]:
    """The fields of a model, its own before those that it shares with others."""
    return {name: model.model_fields[name] for name in {**dict.fromkeys(model.__annotations__), **model.model_fields}}


def _section(field: FieldInfo) -> type[Model] | None:
    """The model of a field that is a section."""
    return field.annotation if isinstance(field.annotation, type) and issubclass(field.annotation, Model) else None


def _yaml(values: Model, depth: int = 0) -> Iterator[str]:
    indent = "  " * depth
    for name, field in _fields(type(values)).items():
        value, section = getattr(values, name), _section(field)
        filled = section is not None and bool(_plain(value))
        if depth == 0 and (filled or name in ("protocol", "device")):
            yield ""
        about = field.description or str(section.__doc__).partition("\n")[0]
        short = f"{indent}{name}: {_word(value)} # {about}"
        if not filled and not isinstance(value, dict) and len(short) <= WIDTH:
            yield short
            continue
        yield f"{indent}# {about}"
        yield f"{indent}{name}:" + ("" if filled or (value and isinstance(value, dict)) else f" {_word(value)}")
        if filled:
            yield from _yaml(value, depth + 1)
        elif isinstance(value, dict):  # one line for each dataset
            yield from (f"{indent}  {key}: {_word(part)}" for key, part in value.items())


def _plain(values: Model) -> dict[str, Any]:
    return values.model_dump(mode="json", exclude_none=True)


def _word(value: Any) -> str:
    """As YAML, in one line; real numbers without a fraction as whole ones."""
    if isinstance(value, Model):
        value = _plain(value)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_word(part)}" for key, part in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_word, value)) + "]"
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else repr(value).replace("1e-0", "1.0e-")
    return value if isinstance(value, str) else json.dumps(value)


def _rows(path: str, model: type[Model], values: Model | None) -> Iterator[str]:
    """All keys with their defaults and descriptions, in Markdown."""
    for name, field in _fields(model).items():
        section, value = _section(field), getattr(values, name, None)
        key = f"{path}{name}"
        about = field.description or " ".join(str(section.__doc__).split())
        if choices := _choices(field.annotation):
            about += f" One of `{'`, `'.join(choices)}`."
        default = "" if values is None or section or isinstance(value, dict) else f"`{_word(value)}`"
        yield f"| `{key}` | {default} | {about} |"
        if section:
            yield from _rows(f"{key}.", section, None if name == "protocol_overrides" else value)
        elif isinstance(value, dict) and isinstance(next(iter(value.values()), None), Model):
            yield from _rows(f"{key}.<dataset>.", type(next(iter(value.values()))), None)


def _choices(annotation: Any) -> list[str]:
    """The words that a key may have, where they are more than one."""
    parts = get_args(annotation)
    if get_origin(annotation) is Literal:
        return [str(part) for part in parts] * (len(parts) > 1)
    return next(filter(None, map(_choices, parts)), [])


if __name__ == "__main__":
    for path, content in files(Path("config")).items():
        path.write_text(content, encoding="utf-8")
