"""From a preset's name and a few overrides to the one `PipelineConfig` of a run.

    resolve("demo", ["mappo.num_steps=50", "dataset.name=files", "dataset.path=data/my-corpus"])

A preset is a YAML file in configs/ that states what differs from the defaults in jointrag/config.py. Every mistake is
one `ConfigError` that names the setting by its full path and says what would be right.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from jointrag.config import PipelineConfig, Section

CONFIGS = Path(__file__).resolve().parents[1] / "configs"


class ConfigError(ValueError):
    """A mistake in the settings: what is wrong, where, and what would be right."""


def presets() -> dict[str, Path]:
    """Every preset by name."""
    return {path.stem: path for path in sorted(CONFIGS.glob("*.yaml"))}


def describe(path: Path) -> str:
    """The first comment line of a preset."""
    return path.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ").strip()


def resolve(preset: str, overrides: dict[str, Any] | Sequence[str] = ()) -> PipelineConfig:
    """The settings of `preset` with `overrides` merged in: `{"mappo": {"num_steps": 50}}` or `["mappo.num_steps=50"]`.

    Dictionary keys may be dotted too. Raises ConfigError.
    """
    known = presets()
    if preset not in known:
        raise ConfigError(f"unknown preset {preset!r}{_suggestion(preset, known)}; known presets: {', '.join(known)}")
    settings = PipelineConfig().model_dump()
    _merge(settings, _read(known[preset]))
    _merge(settings, parse_overrides(overrides))
    return _validated(settings)


def read_resolved(path: Path) -> PipelineConfig:
    """The settings that a run wrote down. Raises ConfigError where the file is damaged or of another version."""
    if not path.is_file():
        raise ConfigError(f"{path}: no such file; it holds the settings of a run")
    try:
        return _validated(_read(path))
    except ConfigError as error:
        raise ConfigError(f"{path} does not fit this version: {error}; run the flow again") from None


def _validated(settings: dict[str, Any]) -> PipelineConfig:
    try:
        return PipelineConfig.model_validate(settings)
    except ValidationError as error:
        lines = [_explain(item) for item in error.errors(include_url=False)]
        raise ConfigError("\n".join(dict.fromkeys(lines))) from None


def parse_overrides(overrides: dict[str, Any] | Sequence[str]) -> dict[str, Any]:
    """Overrides in either form as one nested dictionary. Values of `a.b=value` are read as YAML."""
    if isinstance(overrides, dict):
        pairs = [(str(key), value) for key, value in overrides.items()]
    else:
        pairs = [_parse(text) for text in overrides]
    merged: dict[str, Any] = {}
    for key, value in pairs:
        nested = value
        if isinstance(nested, dict):
            nested = parse_overrides(nested)
        for name in reversed(key.split(".")):
            nested = {name: nested}
        _merge(merged, nested)
    return merged


def merged(*overrides: dict[str, Any] | Sequence[str]) -> dict[str, Any]:
    """Several overrides as one nested dictionary; later ones win."""
    together: dict[str, Any] = {}
    for one in overrides:
        _merge(together, parse_overrides(one))
    return together


def settings() -> Iterator[tuple[str, FieldInfo]]:
    """Every setting there is, by dotted path, with all alternatives of a section (scratch, pretrained …)."""
    for path, field, models in _walk(PipelineConfig):
        if not models:
            yield path, field


def _read(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: expected sections such as `mappo:`, found {type(content).__name__}")
    return content


def _parse(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"override {text!r} is not of the form section.setting=value, e.g. mappo.num_steps=50")
    return key.strip(), parse_value(key, value)


def parse_value(key: str, value: str) -> Any:
    """What is written behind a setting's name and =, which is YAML."""
    try:
        return yaml.safe_load(value)
    except yaml.YAMLError:
        raise ConfigError(f"override '{key}={value}': {value!r} is not a YAML value; quote it: {key}='\"…\"'") from None


def _merge(base: dict[str, Any], changes: dict[str, Any], where: str = "") -> None:
    """Put `changes` into `base`, section by section."""
    for name, value in changes.items():
        path = f"{where}{name}"
        old = base.get(name)
        if isinstance(value, dict) and isinstance(old, dict):
            tag = _unions().get(path)
            if tag in value and value[tag] != old.get(tag):
                base[name] = dict(value)  # another kind of section: the old kind's settings mean nothing to it
            else:
                _merge(old, value, f"{path}.")
        else:
            base[name] = value


def _walk(model: type[Section], where: str = "") -> Iterator[tuple[str, FieldInfo, list[type[Section]]]]:
    for name, field in model.settings().items():
        path = f"{where}{name}"
        models = _models(field.annotation)
        yield path, field, models
        for inner in models:
            yield from _walk(inner, f"{path}.")


def _models(annotation: Any) -> list[type[Section]]:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return [annotation]
    return [model for inner in get_args(annotation) for model in _models(inner)]


def _unions() -> dict[str, str]:
    """Sections of several kinds, by path, and the setting that tells the kinds apart."""
    return {path: str(field.discriminator) for path, field, _ in _walk(PipelineConfig) if field.discriminator}


def _explain(error: Any) -> str:
    path, kind = _dotted(error["loc"])
    match error["type"]:
        case "extra_forbidden":
            return f"unknown setting {path}{_suggest_setting(path, kind)}"
        case "missing":
            return f"{path} has to be set"
        case "union_tag_invalid":
            expected = error["ctx"]["expected_tags"]
            return f"{path}.{_unions()[path]}: {error['ctx']['tag']!r} is not one of {expected}"
        case "union_tag_not_found":
            return f"{path}.{_unions()[path]} has to be set"
        case "value_error":
            message = str(error["ctx"]["error"])
            return f"{path}: {message}" if path else message
        case "model_type" | "model_attributes_type":
            return f"{path}: expected a section of settings, found {error['input']!r}"
        case _:
            message = error["msg"].replace("Input should be", "expected").replace("a valid tuple", "a list")
            return f"{path}: {message}, found {error['input']!r}"


def _dotted(loc: tuple[int | str, ...]) -> tuple[str, str]:
    """pydantic's location as a dotted path, and the kind of the innermost section that has kinds."""
    names: list[str] = []
    kind = ""
    unions = _unions()
    is_kind = False
    for part in loc:
        if is_kind:
            kind, is_kind = str(part), False
            continue
        names.append(str(part))
        is_kind = ".".join(names) in unions
    return ".".join(names), kind


def _suggest_setting(path: str, kind: str) -> str:
    section = path.rpartition(".")[0]
    everything = [known for known, _, _ in _walk(PipelineConfig)]
    siblings = list(dict.fromkeys(known for known in everything if known.rpartition(".")[0] == section))
    if path in siblings:  # a setting of another kind of this section
        return f": {section} of kind {kind!r} has none of that name"
    name = path.rpartition(".")[2]
    if close := difflib.get_close_matches(name, [known.rpartition(".")[2] for known in siblings], n=1):
        return f"; did you mean {path.removesuffix(name)}{close[0]}?"
    elsewhere = [known for known in everything if known.rpartition(".")[2] == name]
    return f"; did you mean {elsewhere[0]}?" if elsewhere else f"; {section or 'a run'} has {', '.join(siblings)}"


def _suggestion(name: str, known: Any) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]}?" if close else ""
