"""Ways to tell people of an alarm: one a file, found by the file's name; a new one is one new file here.

`alerts/NAME.py` holds `class Settings(Section)`, what `params.yaml` may say beside `name`, and

    def send(settings: Settings, subject: str, text: str) -> None

which raises `EmbedlineError` where the message cannot be sent.
"""
