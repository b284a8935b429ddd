"""One text or several, in the forms that the protocols allow. Once read, all are a flat list."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Self

from pydantic import (
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    ModelWrapValidatorHandler,
    PrivateAttr,
    RootModel,
    TypeAdapter,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError

from service.http.openapi import Text

_ONE = TypeAdapter(Text).json_schema()
_ALONE = {"type": "array", "items": _ONE, "minItems": 1, "maxItems": 1}


class Texts(RootModel[Annotated[list[Text], Field(min_length=1)]]):
    """One text, or a list of them."""

    model_config = ConfigDict(strict=True)

    described: ClassVar[JsonSchemaValue] = {"anyOf": [_ONE, {"type": "array", "items": _ONE, "minItems": 1}]}
    """The JSON schema of what is read, which is not that of the flat list."""

    _single: bool = PrivateAttr(default=False)

    @property
    def single(self) -> bool:
        """Whether a single text was given, not a list."""
        return self._single

    @model_validator(mode="wrap")
    @classmethod
    def _read(cls, value: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        value = cls.flatten(value)
        single = isinstance(value, str)
        texts = handler([value] if single else value)
        texts._single = single
        return texts

    @classmethod
    def flatten(cls, value: Any) -> Any:
        """Return a single text as it is, several as a flat list, and anything else for the validator to refuse."""
        return value

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Describe what is read."""
        return cls.described


class Unpaired(Texts):
    """TEI's inputs: `"a"` or `["a"]`, or `[["a"], ["b"]]` for several; `["a", "b"]` would be one pair of texts."""

    described = {"anyOf": [_ONE, _ALONE, {"type": "array", "items": _ALONE, "minItems": 1}]}

    @classmethod
    def flatten(cls, value: Any) -> Any:
        """Take texts out of their lists. Raises PydanticCustomError for a pair."""
        if not isinstance(value, list) or not value:
            return value
        if all(isinstance(item, list) for item in value):
            return [_only(item, f"item {index} is ") for index, item in enumerate(value)]
        return _only(value)


class Column(Texts):
    """A tensor's data, of shape [N] or [N, 1]: `["a", "b"]` or `[["a"], ["b"]]`."""

    described = {"type": "array", "items": {"anyOf": [_ONE, _ALONE]}, "minItems": 1}

    @classmethod
    def flatten(cls, value: Any) -> Any:
        """Take the texts of a column out of their rows."""
        if isinstance(value, list):
            return [item[0] if isinstance(item, list) and len(item) == 1 else item for item in value]
        return None


def _only(texts: list[Any], where: str = "") -> Any:
    """Return the only item of a list. Raises PydanticCustomError if there are more."""
    if len(texts) != 1:
        raise PydanticCustomError(
            "pair",
            '{where}a pair of texts, and this model reads one text at a time; a batch is `[["a"], ["b"]]`',
            {"where": where},
        )
    return texts[0]
