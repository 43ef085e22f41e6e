"""A page that needs nothing beside it, from Markdown with tables."""

from __future__ import annotations

import html
import re

from markdown_it import MarkdownIt

FRONT_MATTER = re.compile(r"\A---\n.*?\n---\n", re.DOTALL)
PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }}
table {{ border-collapse: collapse; display: block; overflow-x: auto; }}
th, td {{ border: 1px solid #bbb; padding: 0.2rem 0.6rem; }}
pre {{ background: #f4f4f4; padding: 0.6rem; overflow-x: auto; }}
</style>
</head>
<body>
{body}</body>
</html>
"""


def as_html(text: str) -> str:
    """Returns the page; metadata in front of the text is left out, and HTML in it is shown, not obeyed."""
    shown = FRONT_MATTER.sub("", text)
    heading = re.search(r"^# (.+)$", shown, re.MULTILINE)
    title = html.escape(heading[1] if heading else "")
    return PAGE.format(title=title, body=MarkdownIt("commonmark", {"html": False}).enable("table").render(shown))
