"""Alerts as a POST of `{"text": ...}`, which Slack, Mattermost and Teams take; the address is a secret."""

from __future__ import annotations

import os
from typing import Literal

import httpx

from components.errors import EmbedlineError, UsageError
from components.sections import Section

SECONDS = 10


class Settings(Section):
    """The address is in the environment variable that `variable` names."""

    name: Literal["webhook"] = "webhook"
    variable: str = "EMBEDLINE_WEBHOOK"


def send(settings: Settings, subject: str, text: str) -> None:
    if not (url := os.environ.get(settings.variable)):
        raise UsageError(f"alerts: {settings.variable} is not set", "Set it to the address of the webhook.")
    try:
        httpx.post(url, json={"text": f"{subject}\n{text}"}, timeout=SECONDS).raise_for_status()
    except httpx.HTTPStatusError as error:  # its own words hold the address
        raise EmbedlineError(f"the webhook answers {error.response.status_code}", "Check its address.") from None
    except httpx.HTTPError as error:
        raise EmbedlineError(f"the webhook cannot be reached: {type(error).__name__}", "Check its address.") from None
