"""The section `gateway` of `params.yaml`: the HTTP interface for applications, and what it refuses before it works."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, Field

from components.sections import Fraction, Port, Positive, Rate, Section


def _compiles(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"is no regular expression: {error}") from error
    return pattern


class RemoteImages(Section):
    """Images by URL are fetched from these hosts alone, never from an address of a private network."""

    hosts: Annotated[list[str], Field(min_length=1)]
    seconds: Rate = 5.0
    redirects: Annotated[int, Field(ge=0, le=10)] = 3


class Gateway(Section):
    """Every limit holds for one request, unless it says otherwise, and before anything is decoded.

    `triton` is the gRPC address `host:port` of the server behind; null takes the one that runs in this folder.
    `record_share` of the answered items is kept in `.embedline/traffic` for `embedline monitor`, without their content
    unless `record_raw` asks for it; what matches one of the regular expressions `redact` is then blanked out of texts.
    Spans of all requests go to `traces`, the URL of a collector that takes OTLP over HTTP; null: nowhere.
    `in_flight` batches of a version are with Triton at once (null: as many as the version has instances there); what
    arrives meanwhile waits and makes the next batch.
    """

    host: str = "127.0.0.1"
    port: Port = 8080
    triton: str | None = None
    max_bytes: Positive = 32_000_000
    max_items: Positive = 256
    max_text_characters: Positive = 100_000
    max_image_bytes: Annotated[int, Field(gt=0, le=20_000_000)] = 20_000_000
    max_image_pixels: Annotated[int, Field(gt=0, le=40_000_000)] = 40_000_000
    max_waiting_items: Positive = 2048
    """Over all requests; what comes on top is answered 503."""
    max_held_bytes: Positive = 256_000_000
    """Of the bodies of all requests that are being read or answered."""
    in_flight: Positive | None = None
    receive_seconds: Rate = 10.0
    """For the headers, for the body, and for a client that does not read its answer."""
    timeout_seconds: Rate = 30.0
    drain_seconds: Rate = 30.0
    remote_images: RemoteImages | None = None
    record_share: Fraction = 0.1
    record_raw: bool = False
    redact: list[Annotated[str, AfterValidator(_compiles)]] = Field(default_factory=list)
    traces: str | None = None
