"""The base of every section of the settings. It is here, not in jointrag/config, so that a file with settings of its
own (an agent's, say) can be imported by the settings."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict
from pydantic.fields import FieldInfo


class Section(BaseModel):
    """Immutable; unknown keys are errors. A docstring under a setting is its description."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    @classmethod
    def settings(cls) -> dict[str, FieldInfo]:
        """What can be set here, by name."""
        return cls.model_fields
