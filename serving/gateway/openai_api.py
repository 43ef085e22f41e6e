"""The wire format: OpenAI's `POST /v1/embeddings` with images, instructions and errors of single items."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, WithJsonSchema
from pydantic_core import to_json

from serving.gateway.refusal import Refusal

MODEL = "embedder"
TEXT_PART = {
    "type": "object",
    "properties": {"type": {"const": "text"}, "text": {"type": "string"}},
    "required": ["type", "text"],
}
IMAGE_PART = {
    "type": "object",
    "properties": {
        "type": {"const": "image_url"},
        "image_url": {
            "type": "object",
            "properties": {"url": {"type": "string", "description": "data:image/png;base64,... or base64"}},
            "required": ["url"],
        },
    },
    "required": ["type", "image_url"],
}
PARTS = {
    "type": "array",
    "description": "one item: at most one part of each type",
    "items": {"oneOf": [TEXT_PART, IMAGE_PART]},
    "minItems": 1,
    "maxItems": 2,
}
TEXT = {"type": "string", "minLength": 1}
INPUT = {
    "oneOf": [TEXT, PARTS, {"type": "array", "items": {"oneOf": [TEXT, PARTS]}, "minItems": 1}],
    "description": "A text, the content parts of one item, or a list of texts and of lists of parts.",
}


Form = TypeVar("Form", bound=BaseModel)


class EmbeddingRequest(BaseModel):
    """The body of `POST /v1/embeddings`; an unknown key is an error, for it would change nothing unseen."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={"examples": [{"model": MODEL, "input": ["a sad cat", "a red dog"]}]},
    )

    input: Annotated[Any, WithJsonSchema(INPUT)]
    model: Annotated[str, Field(description="`embedder`, or `embedder/VERSION`.")] = MODEL
    instruction: Annotated[
        str | list[str | None] | None, Field(description="What kind of answer is wanted: of all items, or one each.")
    ] = None
    dimensions: Annotated[
        int | None,
        Field(ge=1, le=2**31 - 1, description="One that the model declares: vectors are cut, then of length 1."),
    ] = None
    encoding_format: Annotated[Literal["float", "base64"], Field(description="base64: little-endian float32.")] = (
        "float"
    )
    user: Annotated[str | None, Field(description="Requests of one user are answered by one version.")] = None
    on_error: Annotated[
        Literal["fail", "item"], Field(description="A bad item fails the request, or gets an error in its place.")
    ] = "fail"


class Embedding(BaseModel):
    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class ErrorBody(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class Error(BaseModel):
    error: ErrorBody


class ItemError(BaseModel):
    object: Literal["error"]
    index: int
    error: ErrorBody


class Usage(BaseModel):
    """Nothing is counted in tokens, so both are 0; the fields are there because clients read them."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingResponse(BaseModel):
    """`model` is `embedder/VERSION`: the version that has answered."""

    object: Literal["list"]
    data: list[Embedding | ItemError]
    model: str
    usage: Usage


class Model(BaseModel):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class Models(BaseModel):
    object: Literal["list"]
    data: list[Model]


class Taken(BaseModel):
    """Which hit of the search that followed a request its user took: its rank from 1, or 0 for none. The items of a
    request that had several have its id and their number from 0: `ID-2`. `hit` is what the hit shows, as an item of
    `input`; it is kept where the content of requests is, and makes a pair to train on."""

    model_config = ConfigDict(extra="forbid")

    request_id: Annotated[str, Field(pattern=r"^[\w.:-]{1,150}$")]
    rank: Annotated[int, Field(ge=0, le=1_000_000)]
    hit: Annotated[str | list[Any] | None, WithJsonSchema({"anyOf": [TEXT, PARTS, {"type": "null"}]})] = None


def parse(form: type[Form], body: bytes) -> Form:
    """Returns a request of that form. Raises `Refusal` 400 that names what is wrong with it."""
    try:
        return form.model_validate_json(body)
    except ValidationError as error:
        raise refused(error) from error


def refused(error: ValidationError) -> Refusal:
    fault = error.errors(include_url=False, include_input=False, include_context=False)[0]
    place = ".".join(map(str, fault["loc"]))
    message = f"{place}: {fault['msg']}" if place else fault["msg"]
    return Refusal(400, message, param=place or None, code="invalid_request")


def response(results: Sequence[np.ndarray | Refusal], model: str, encoding: Literal["float", "base64"]) -> bytes:
    """Returns the body of the answer as JSON."""
    write = in_base64 if encoding == "base64" else in_floats
    data = b",".join(
        b'{"object":"error","index":%d,"error":%b}' % (index, to_json(result.error))
        if isinstance(result, Refusal)
        else b'{"object":"embedding","index":%d,"embedding":%b}' % (index, write(result))
        for index, result in enumerate(results)
    )
    usage = b'{"prompt_tokens":0,"total_tokens":0}'
    return b'{"object":"list","data":[%b],"model":%b,"usage":%b}' % (data, to_json(model), usage)


def in_base64(vector: np.ndarray) -> bytes:
    return b'"%b"' % base64.b64encode(vector.astype("<f4", copy=False).tobytes())


def in_floats(vector: np.ndarray) -> bytes:
    return to_json(vector.tolist())
