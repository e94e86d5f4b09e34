"""What every configuration model shares: frozen, strict, no unknown keys, errors in one line."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from brein.errors import ConfigError


class Settings(BaseModel):
    """Base of every configuration model: frozen, unknown keys forbidden, nothing coerced."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    @classmethod
    def read(cls, text: str) -> Self:
        """Read settings from JSON text.

        Strict JSON mode turns lists into tuples and strings into paths, but never 16.7 into 16.

        Raises:
            ConfigError: one line for all that is wrong, each with field, bound and value.
        """
        try:
            return cls.model_validate_json(text, strict=True)
        except ValidationError as error:
            raise ConfigError(explain(error)) from None

    def unused(self) -> tuple[str, ...]:
        """Dotted names of the settings that are kept but that the engine does not act on yet."""
        return tuple(_unused(self, ""))


def not_used_yet(default: Any, **bounds: Any) -> Any:
    """Declare a setting that is typed and kept although nothing reads it yet."""
    return Field(default, json_schema_extra={"not_used_yet": True}, **bounds)


def _unused(settings: Settings, prefix: str) -> Iterator[str]:
    for name, field in type(settings).model_fields.items():
        value = getattr(settings, name)
        if _is_marked(field):
            if value is not None:
                yield prefix + name
        elif isinstance(value, Settings):
            yield from _unused(value, f"{prefix}{name}.")


def _is_marked(field: FieldInfo) -> bool:
    extra = field.json_schema_extra
    return isinstance(extra, dict) and bool(extra.get("not_used_yet"))


def explain(error: ValidationError) -> str:
    """Say in one line what is wrong with a configuration: field, value, bound."""
    return "; ".join(_explain_one(detail) for detail in error.errors())


def _explain_one(detail: ErrorDetails) -> str:
    # pydantic puts the tag of a discriminated union into the path: index.IndexIVFFlat.nprobe
    path = ".".join(str(part) for part in detail["loc"] if not str(part).startswith(("Index", "kind=")))
    context = detail.get("ctx", {})
    match detail["type"]:
        case "union_tag_invalid":
            kind = str(context["discriminator"]).strip("'")
            return f"{path}.{kind} = {context['tag']!r} is unknown; known kinds: {context['expected_tags']}"
        case "extra_forbidden":
            return f"{path} = {detail['input']!r} is not a setting of this part; remove it"
        case "missing":
            return f"{path} is missing; give it a value"
        case "value_error":
            return f"{path}: {context['error']}" if path else str(context["error"])
        case _:
            return f"{path} = {detail['input']!r}: {detail['msg'][0].lower()}{detail['msg'][1:]}"
