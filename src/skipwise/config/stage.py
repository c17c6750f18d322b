"""What every section of a configuration shares."""

from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from skipwise.config.values import takes_list


class Stage(BaseModel):
    """One section of a configuration.

    Unknown keys, empty texts, NaN, infinity, and `true` for a number are errors. One value where a list is expected is
    a list of one.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _reject_slips(cls, value: Any, info: ValidationInfo) -> Any:
        """Reject what pydantic would convert in silence, and what an unset shell variable leaves."""
        annotation = cls.model_fields[info.field_name or ""].annotation
        flag = annotation in (bool, bool | None)
        if isinstance(value, str | int | float) and takes_list(annotation):
            value = [value]
        items = value if isinstance(value, list) else [value]
        for item in items:
            if isinstance(item, bool) and not flag:
                raise PydanticCustomError("bool_given", "expected no true or false here")
            if isinstance(item, str) and not item.strip():
                raise ValueError("it is empty; was a shell variable not set?")
            if isinstance(item, str) and "\0" in item:
                raise ValueError("it holds a NUL character")
        if flag and value is not None and not isinstance(value, bool):
            raise PydanticCustomError("bool_type", "expected true or false")
        return value
