"""Alerts as e-mail over SMTP."""

from __future__ import annotations

import os
import smtplib
from email.message import EmailMessage
from typing import Annotated, Literal

from pydantic import Field

from components.errors import EmbedlineError
from components.sections import Positive, Section

SECONDS = 10


class Settings(Section):
    """User and password, where the server wants them, are in EMBEDLINE_SMTP_USER and EMBEDLINE_SMTP_PASSWORD."""

    name: Literal["email"] = "email"
    server: str
    port: Positive = 587
    sender: str
    recipients: Annotated[list[str], Field(min_length=1)]
    starttls: bool = True


def send(settings: Settings, subject: str, text: str) -> None:
    message = EmailMessage()
    message["Subject"], message["From"], message["To"] = subject, settings.sender, ", ".join(settings.recipients)
    message.set_content(text)
    try:
        with smtplib.SMTP(settings.server, settings.port, timeout=SECONDS) as server:
            if settings.starttls:
                server.starttls()
            if user := os.environ.get("EMBEDLINE_SMTP_USER"):
                server.login(user, os.environ.get("EMBEDLINE_SMTP_PASSWORD", ""))
            server.send_message(message)
    except (OSError, smtplib.SMTPException) as error:
        raise EmbedlineError(
            f"no e-mail could be sent over {settings.server}:{settings.port}: {error}", "Check monitoring.alerts."
        ) from error
