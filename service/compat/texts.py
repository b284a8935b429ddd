"""One text or several, in the forms that protocols have for them; all are a flat list once read."""

from __future__ import annotations

from typing import Annotated, Any, Self

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

    _single: bool = PrivateAttr(default=False)

    @property
    def single(self) -> bool:
        """Whether one text was given, not a list."""
        return self._single

    @model_validator(mode="wrap")
    @classmethod
    def _read(cls, value: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        value = cls.flat(value)
        single = isinstance(value, str)
        texts = handler([value] if single else value)
        texts._single = single
        return texts

    @classmethod
    def flat(cls, value: Any) -> Any:
        """A text as such, several as a list; what is neither is left to be refused."""
        return value

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Describe what is read."""
        return {"anyOf": [_ONE, {"type": "array", "items": _ONE, "minItems": 1}]}


class Unpaired(Texts):
    """TEI's inputs: `"a"` or `["a"]`, and for several `[["a"], ["b"]]`; to TEI `["a", "b"]` is a pair, not two."""

    @classmethod
    def flat(cls, value: Any) -> Any:
        """Take texts out of their lists. Raises PydanticCustomError for a pair."""
        if not isinstance(value, list) or not value:
            return value
        if all(isinstance(item, list) for item in value):
            return [_alone(item, f"item {index} is ") for index, item in enumerate(value)]
        return _alone(value)

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Describe what is read."""
        return {"anyOf": [_ONE, _ALONE, {"type": "array", "items": _ALONE, "minItems": 1}]}


class Column(Texts):
    """A tensor's data, of shape [N] or [N, 1]: `["a", "b"]` or `[["a"], ["b"]]`."""

    @classmethod
    def flat(cls, value: Any) -> Any:
        """Take the texts of a column out of their rows."""
        if isinstance(value, list):
            return [item[0] if isinstance(item, list) and len(item) == 1 else item for item in value]
        return None

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Describe what is read."""
        return {"type": "array", "items": {"anyOf": [_ONE, _ALONE]}, "minItems": 1}


def _alone(texts: list[Any], where: str = "") -> Any:
    if len(texts) != 1:
        raise PydanticCustomError(
            "pair",
            '{where}a pair of texts, and this model reads one text at a time; a batch is `[["a"], ["b"]]`',
            {"where": where},
        )
    return texts[0]
