"""What a client reads when its request, or one item of it, is not answered: errors in OpenAI's shape."""

from __future__ import annotations

import math
from typing import Any

TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


class Refusal(Exception):
    """`status` is the HTTP status, `param` the part of the request to blame, `code` what programs may ask for.

    `closes`: the connection is of no more use, because the rest of the body was not read.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after: float | None = None,
        closes: bool = False,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code
        self.retry_after = retry_after
        self.closes = closes

    @property
    def error(self) -> dict[str, Any]:
        """The error as OpenAI's clients read it."""
        kind = TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"message": self.message, "type": kind, "param": self.param, "code": self.code}

    @property
    def headers(self) -> dict[str, str]:
        headers = {}
        if self.retry_after is not None:
            headers["retry-after"] = str(max(1, math.ceil(self.retry_after)))
        if self.status == 401:
            headers["www-authenticate"] = "Bearer"
        if self.closes:
            headers["connection"] = "close"
        return headers

    def of_item(self, position: int) -> Refusal:
        """Returns this refusal, naming the item of the request that it is about, counted from 0."""
        return Refusal(
            self.status,
            self.message,
            param=self.param or f"input[{position}]",
            code=self.code,
            retry_after=self.retry_after,
        )
