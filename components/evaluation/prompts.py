"""From an item as its file words it to the text that a model was made for, byte for byte; a newline is part of it.

A benchmark's table names a parser for each set, after the parsers of VLM2Vec; a model has a backbone. Loaders give what
is in the files: `text` (of a video question with its options) and `instruction`, image tokens and newlines included.

Sources: VLM2Vec, `src/data/eval_dataset/*.py` and `process_input_text` of `src/model/processor.py` (main); for
`mmeb-eval` its `src/dataset.py` (v1); for `mllama` mmE5, `src/collator.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Literal, NamedTuple

from components.corpus import Item
from components.corpus.rows import IMAGE_TOKEN
from components.errors import DataInvalid, UsageError

IMAGE_TOKENS = {
    "phi3_v": IMAGE_TOKEN,
    "llava_next": "<image>",
    "qwen2_vl": "<|image_pad|>",
    "qwen2_5_vl": "<|image_pad|>",
    "gme": "<|image_pad|>",
    "lamra": "<|image_pad|>",
    "mllama": "<|image|><|begin_of_text|>",
    "colpali": "",
    "internvideo2": "",
    "e5_v": "<image>",
}
VIDEO_TOKENS = {
    "llava_next": "<image>",
    "qwen2_vl": "<|video_pad|>",
    "qwen2_5_vl": "<|video_pad|>",
    "gme": "<|video_pad|>",
    "lamra": "<|video_pad|>",
    "colpali": "",
    "internvideo2": "",
    "e5_v": "<image>",
}
Rule = Callable[[Item, str], str]


class Parser(NamedTuple):
    query: Rule
    target: Rule


def render(parser: str, side: Literal["query", "target"], item: Item, backbone: str) -> Item:
    """Returns the item with the one prompt as `text`, None where it is empty, and without instruction.

    Raises `UsageError` for an unknown parser or backbone, or a backbone that takes no video and gets one, and
    `DataInvalid` if the item lacks the instruction that its prompt is made of.
    """
    if parser not in PARSERS:
        raise UsageError(f"{parser}: there is no such parser of prompts", f"Known are {', '.join(PARSERS)}.")
    require_backbone(backbone)
    rules = PARSERS[parser]
    rule = rules.query if side == "query" else rules.target
    return replace(item, text=rule(item, backbone) or None, instruction=None)


def require_backbone(backbone: str) -> None:
    """Raises `UsageError` that names the known backbones if it is none of them."""
    if backbone not in IMAGE_TOKENS:
        raise UsageError(
            f"{backbone}: the prompts of this backbone are not known", f"Known are {_listed(IMAGE_TOKENS)}."
        )


def _kept(item: Item, backbone: str) -> str:
    text = item.text or ""
    if backbone == "mllama":
        token = IMAGE_TOKENS[backbone] if item.image else "<|begin_of_text|>"
        return text.replace(f"{IMAGE_TOKEN}\n", token)
    return text.replace(IMAGE_TOKEN, IMAGE_TOKENS[backbone])


def _text(item: Item, backbone: str) -> str:
    return item.text or ""


def _composed(item: Item, backbone: str) -> str:
    return _compose(_instruction(item), item.text, item, backbone)


def _image_query(item: Item, backbone: str) -> str:
    return _without_space_before_newline(_compose(_untokened(item), item.text or "", item, backbone)) + "\n"


def _image_question(item: Item, backbone: str) -> str:
    instruction = "\n" + _untokened(item).strip()
    return _without_space_before_newline(_compose(instruction, item.text or "", item, backbone)) + "\n"


def _text_query(item: Item, backbone: str) -> str:
    return f"{_instruction(item).replace(IMAGE_TOKEN, IMAGE_TOKENS[backbone])} {item.text or ''}\n"


def _dialogue(item: Item, backbone: str) -> str:
    return _text_query(item, backbone) + "\n"


def _image_target(item: Item, backbone: str) -> str:
    return _captioned(item, backbone) + "\n"


def _region_target(item: Item, backbone: str) -> str:
    return _captioned(item, backbone) + ("\n" if _caption(item) else "")


def _video_question(item: Item, backbone: str) -> str:
    return f"{_token(item, backbone)} {_instruction(item)} {item.text or ''}"


def _option(item: Item, backbone: str) -> str:
    """Returns an option without its letter and its full stop."""
    text = item.text or ""
    return text[text.find(". ") :].strip(". ")


def _captioned(item: Item, backbone: str) -> str:
    # VLM2Vec asks the first candidate of a row whether the row has captions; in the published sets all have or none.
    instruction = f"{_untokened(item)} {_caption(item)}" if _caption(item) else _untokened(item)
    return _without_space_before_newline(_compose(instruction, "", item, backbone))


def _compose(instruction: str, text: str | None, item: Item, backbone: str) -> str:
    """Returns what `process_input_text` does: most models read a token, the instruction and the text; GME and LamRA
    bring the token themselves, E5-V has no instruction and InternVideo2 reads the text alone."""
    if backbone == "internvideo2":
        return text or ""
    if backbone in ("gme", "lamra"):
        return f"{instruction} {text or ''}"
    if backbone == "e5_v":
        return _e5_v(text, item)
    token = f"{_token(item, backbone)} " if item.video or item.image else ""
    return token + instruction + (f" {text}" if text else "")


def _e5_v(text: str | None, item: Item) -> str:
    medium = "video" if item.video else "image"
    if not (item.video or item.image):
        asked = f"{text}\nSummary above sentence in one word: "
    elif text is None:
        asked = f"<image>\nSummary above {medium} in one word: "
    else:
        asked = f"<image>\n{text}\nSummary above {medium} and text in one word: "
    return (
        f"<|start_header_id|>user<|end_header_id|>\n\n{asked}<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n \n"
    )


def _token(item: Item, backbone: str) -> str:
    if not item.video:
        return IMAGE_TOKENS[backbone]
    if backbone not in VIDEO_TOKENS:
        raise UsageError(f"{backbone}: this backbone takes no video", f"{_listed(VIDEO_TOKENS)} do.")
    return VIDEO_TOKENS[backbone]


def _instruction(item: Item) -> str:
    if item.instruction is None:
        raise DataInvalid(f"{item} has no instruction", "Its prompt is made of one; its loader should give it.")
    return item.instruction


def _untokened(item: Item) -> str:
    return _instruction(item).replace(IMAGE_TOKEN, "")


def _caption(item: Item) -> str:
    return item.text if item.text and item.text.strip() else ""


def _without_space_before_newline(text: str) -> str:
    return text.replace(" \n", "\n")


def _listed(tokens: dict[str, str]) -> str:
    return ", ".join(tokens)


PARSERS: dict[str, Parser] = {
    "mmeb-eval": Parser(_kept, _kept),
    "image-cls": Parser(_image_query, _text),
    "image-i2t": Parser(_image_query, _text),
    "image-qa": Parser(_image_question, _text),
    "image-t2i": Parser(_text_query, _image_target),
    "image-t2i-visdial": Parser(_dialogue, _image_target),
    "image-i2i-vg": Parser(_image_question, _region_target),
    "visdoc": Parser(_composed, _composed),
    "video-classification": Parser(_composed, _text),
    "ssv2": Parser(_composed, _text),
    "mvbench": Parser(_video_question, _text),
    "videomme": Parser(_video_question, _option),
    "nextqa": Parser(_video_question, _text),
    "egoschema": Parser(_video_question, _option),
    "activitynetqa": Parser(_video_question, _text),
    "didemo": Parser(_composed, _composed),
    "msrvtt": Parser(_composed, _composed),
    "msvd": Parser(_composed, _composed),
    "vatex": Parser(_composed, _composed),
    "youcook2": Parser(_composed, _composed),
    "moment-retrieval": Parser(_composed, _composed),
    "momentseeker": Parser(_composed, _composed),
}
