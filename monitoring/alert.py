"""Tells people of an alarm, by every way that is configured."""

from __future__ import annotations

import logging

from components.errors import EmbedlineError
from components.monitoring.config import ALERTS, Monitoring


def alert(settings: Monitoring, subject: str, text: str) -> list[str]:
    """Sends the message by each of `monitoring.alerts`; returns the problems of those that failed.

    One that fails keeps neither the others nor the caller from going on; each is logged.
    """
    problems = []
    for way in settings.alerts:
        try:
            ALERTS.of(way).send(way, subject, text)
        except (EmbedlineError, OSError) as error:
            problem = error.problem if isinstance(error, EmbedlineError) else str(error)
            problems.append(f"{way.name}: {problem}")
            logging.getLogger(__name__).error("an alert was not sent: %s", problems[-1])
    return problems
