"""The expected prompts are written out in full: what VLM2Vec and mmE5 give to their models for rows of MMEB."""

from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest

from components.corpus import Item
from components.corpus.rows import plain
from components.errors import DataInvalid, UsageError
from components.evaluation.prompts import IMAGE_TOKENS, PARSERS, VIDEO_TOKENS, render

Side = Literal["query", "target"]
Case = tuple[str, Side, Item, str, str | None]

IMAGE = Path("image.jpg")
FRAMES = (Path("0.jpg"), Path("1.jpg"))
DOCUMENT = Item(image=IMAGE, instruction="Understand the content of the provided document image.")
VIDEO = Item(video=FRAMES, instruction="Understand the content of the provided video.")
CLIP = Item(video=FRAMES, instruction="Understand the content of the provided video clip.")
ASKED = (
    "Given a video and a question, select the most accurate answer from the provided candidates. Return only the exact "
    "text of your chosen answer. Question: "
)
EGOSCHEMA = Item(
    "Taking into account all the actions performed by c, what can you deduce about the primary objective and focus "
    "within the video content?A. C is cooking. B. C is doing laundry. C. C is cleaning the kitchen. D. C is cleaning "
    "dishes. E. C is cleaning the bathroom.",
    video=FRAMES,
    instruction=ASKED,
)
NEXTQA = Item(
    "what did the baby do after throwing the green cup away while on the floor near the end\nOptions:\n"
    "(A) clap proudly\n(B) the lady sitting down\n(C) lay on floor\n(D) just picked it up\n(E) crawl",
    video=FRAMES,
    instruction=ASKED,
)
VIDEOMME = Item(
    "When demonstrating the Germany modern Christmas tree is initially decorated with apples, candles and berries, "
    "which kind of the decoration has the largest number?\nA. Apples.\nB. Candles.\nC. Berries.\nD. The three kinds "
    "are of the same number.",
    video=FRAMES,
    instruction=ASKED,
)
MVBENCH = Item(
    "Why did Castle dress like a fairy when he was speaking to Emily?\nOptions:\n(A) To get her to trust him\n(B) He "
    "secretly loved fairies\n(C) He lost a bet with Emily\n(D) It was dress like a fairy day at school\n(E) Mrs Ruiz "
    "made him dress up",
    video=FRAMES,
    instruction=ASKED,
)
ACTIVITYNETQA = Item("does the girl in black clothes have long hair? (A) yes; (B) no.", video=FRAMES, instruction=ASKED)
PARROT = Item(
    "What is this bird called?",
    IMAGE,
    instruction="<|image_1|>\nRepresent the given image with the following question:",
)
MOPED = Item(
    "A man with a red helmet on a small moped on a dirt road.",
    instruction="Find me an everyday image that matches the given caption:",
)
STREAM = Item(
    "who needs to know about the jet stream", instruction="Find a document image that matches the given query:"
)
FONDANT = Item(
    "a woman creating a fondant baby and flower",
    instruction="Find a video that contains the following visual content:",
)
LIGHT = Item(
    "person turn a light on.",
    video=FRAMES,
    instruction="Find the clip that corresponds to the described scene in the given video:",
)
RHODODENDRON = Item(
    "2020-05-08 15 17 05 Minnetonka Rhododendron flower along Tranquility Court in the Franklin Farm section of Oak "
    "Hill, Fairfax County, Virginia.",
    IMAGE,
    instruction="<|image_1|>\nRepresent the given Wikipedia image with related text information:",
)
DISH = Item(
    '"Dish in top right corner"',
    IMAGE,
    instruction="<|image_1|>\nSelect the portion of the image that follows the language expressions:",
)
CROP = Item(image=IMAGE, instruction="<|image_1|>\nRepresent the given cropped image of the object")
GIVEN = Item(image=IMAGE, instruction="<|image_1|>\nRepresent the given image.")

V1_QUESTION = Item(
    "<|image_1|>\nRepresent the given image with the following question: What is prohibited in the shade?\n", IMAGE
)
V1_CROP = Item("<|image_1|>\nRepresent the given cropped image of the object", IMAGE)
V1_WEBQA = Item(
    "<|image_1|>\nFind a Wikipedia image that answers this question: Which body part is found on both a 1913 D Barber "
    "half and a 1914 Barber Quarter?\n"
)

V1: list[Case] = [
    (
        "mmeb-eval", "query", V1_QUESTION, "phi3_v",
        "<|image_1|>\nRepresent the given image with the following question: What is prohibited in the shade?\n",
    ),
    (
        "mmeb-eval", "query", V1_QUESTION, "llava_next",
        "<image>\nRepresent the given image with the following question: What is prohibited in the shade?\n",
    ),
    (
        "mmeb-eval", "query", V1_QUESTION, "qwen2_vl",
        "<|image_pad|>\nRepresent the given image with the following question: What is prohibited in the shade?\n",
    ),
    (
        "mmeb-eval", "query", V1_QUESTION, "qwen2_5_vl",
        "<|image_pad|>\nRepresent the given image with the following question: What is prohibited in the shade?\n",
    ),
    (
        "mmeb-eval", "query", V1_QUESTION, "gme",
        "<|image_pad|>\nRepresent the given image with the following question: What is prohibited in the shade?\n",
    ),
    (
        "mmeb-eval", "query", V1_QUESTION, "lamra",
        "<|image_pad|>\nRepresent the given image with the following question: What is prohibited in the shade?\n",
    ),
    (
        "mmeb-eval", "query", V1_QUESTION, "mllama",
        "<|image|><|begin_of_text|>Represent the given image with the following question: What is prohibited in the "
        "shade?\n",
    ),
    (
        "mmeb-eval", "query", V1_QUESTION, "colpali",
        "\nRepresent the given image with the following question: What is prohibited in the shade?\n",
    ),
    (
        "mmeb-eval", "query", V1_QUESTION, "internvideo2",
        "\nRepresent the given image with the following question: What is prohibited in the shade?\n",
    ),
    (
        "mmeb-eval", "query", V1_QUESTION, "e5_v",
        "<image>\nRepresent the given image with the following question: What is prohibited in the shade?\n",
    ),
    (
        "mmeb-eval", "query", V1_WEBQA, "qwen2_vl",
        "<|image_pad|>\nFind a Wikipedia image that answers this question: Which body part is found on both a 1913 D "
        "Barber half and a 1914 Barber Quarter?\n",
    ),
    (
        "mmeb-eval", "query", V1_WEBQA, "mllama",
        "<|begin_of_text|>Find a Wikipedia image that answers this question: Which body part is found on both a 1913 D "
        "Barber half and a 1914 Barber Quarter?\n",
    ),
    (
        "mmeb-eval", "target", V1_CROP, "qwen2_vl",
        "<|image_pad|>\nRepresent the given cropped image of the object",
    ),
    (
        "mmeb-eval", "target", V1_CROP, "mllama",
        "<|image|><|begin_of_text|>Represent the given cropped image of the object",
    ),
    ("mmeb-eval", "target", Item("This is a parrot."), "phi3_v", "This is a parrot."),
    ("mmeb-eval", "target", Item(image=IMAGE), "qwen2_vl", None),
]  # fmt: skip

QWEN2_VL: list[Case] = [
    (
        "image-cls", "query",
        Item(image=IMAGE, instruction="<|image_1|>\nRepresent the given image for classification"), "qwen2_vl",
        "<|image_pad|>\nRepresent the given image for classification\n",
    ),
    (
        "image-cls", "query",
        Item(
            "Anthony Pidgeon", IMAGE,
            instruction="<|image_1|>\nRepresent the given news image with the following caption for domain "
            "classification:",
        ), "qwen2_vl",
        "<|image_pad|>\nRepresent the given news image with the following caption for domain classification: Anthony "
        "Pidgeon\n",
    ),
    ("image-cls", "target", Item("firing range indoor", instruction="Not read:"), "qwen2_vl", "firing range indoor"),
    (
        "image-i2t", "query",
        Item(image=IMAGE, instruction="<|image_1|>\nFind an image caption describing the given everyday image."),
        "qwen2_vl",
        "<|image_pad|>\nFind an image caption describing the given everyday image.\n",
    ),
    (
        "image-i2t", "target", Item("A man with a red helmet on a small moped on a dirt road."), "qwen2_vl",
        "A man with a red helmet on a small moped on a dirt road.",
    ),
    (
        "image-qa", "query", PARROT, "qwen2_vl",
        "<|image_pad|>\nRepresent the given image with the following question: What is this bird called?\n",
    ),
    (
        "image-qa", "query",
        replace(PARROT, instruction="<|image_1|> Represent the given image with the following question: "), "qwen2_vl",
        "<|image_pad|>\nRepresent the given image with the following question: What is this bird called?\n",
    ),
    ("image-qa", "target", Item("This is a parrot."), "qwen2_vl", "This is a parrot."),
    (
        "image-t2i", "query", MOPED, "qwen2_vl",
        "Find me an everyday image that matches the given caption: A man with a red helmet on a small moped on a dirt "
        "road.\n",
    ),
    (
        "image-t2i", "query",
        Item(
            "Does a Minnetonka Rhododendron flower have petals in a cup shape?",
            instruction="<|image_1|>\nFind a Wikipedia image that answers this question:",
        ), "qwen2_vl",
        "<|image_pad|>\nFind a Wikipedia image that answers this question: Does a Minnetonka Rhododendron flower have "
        "petals in a cup shape?\n",
    ),
    ("image-t2i", "target", GIVEN, "qwen2_vl", "<|image_pad|>\nRepresent the given image.\n"),
    ("image-t2i", "target", replace(GIVEN, text="  "), "qwen2_vl", "<|image_pad|>\nRepresent the given image.\n"),
    (
        "image-t2i", "target", RHODODENDRON, "qwen2_vl",
        "<|image_pad|>\nRepresent the given Wikipedia image with related text information: 2020-05-08 15 17 05 "
        "Minnetonka Rhododendron flower along Tranquility Court in the Franklin Farm section of Oak Hill, Fairfax "
        "County, Virginia.\n",
    ),
    (
        "image-t2i-visdial", "query",
        Item(
            "Q:is the photo in color\nA:yes\nQ:is it well lit\nA:no",
            instruction="Represent the given dialogue about an image, which is used for image retrieval:",
        ), "qwen2_vl",
        "Represent the given dialogue about an image, which is used for image retrieval: Q:is the photo in color\n"
        "A:yes\nQ:is it well lit\nA:no\n\n",
    ),
    (
        "image-t2i-visdial", "target",
        Item(image=IMAGE, instruction="<|image_1|> Represent the given image"), "qwen2_vl",
        "<|image_pad|>  Represent the given image\n",
    ),
    (
        "image-i2i-vg", "query",
        Item(
            "Show three bottles of soft drink.", IMAGE,
            instruction="<|image_1|>\nGiven an image, find a similar everyday image with the described changes:",
        ), "qwen2_vl",
        "<|image_pad|>\nGiven an image, find a similar everyday image with the described changes: Show three bottles "
        "of soft drink.\n",
    ),
    (
        "image-i2i-vg", "target", CROP, "qwen2_vl",
        "<|image_pad|>\nRepresent the given cropped image of the object",
    ),
    (
        "image-i2i-vg", "target", DISH, "qwen2_vl",
        "<|image_pad|>\nSelect the portion of the image that follows the language expressions: \"Dish in top right "
        "corner\"\n",
    ),
    (
        "visdoc", "query", STREAM, "qwen2_vl",
        "Find a document image that matches the given query: who needs to know about the jet stream",
    ),
    (
        "visdoc", "target", DOCUMENT, "qwen2_vl",
        "<|image_pad|> Understand the content of the provided document image.",
    ),
    (
        "video-classification", "query",
        Item(
            video=FRAMES,
            instruction="Recognize the breakfast type that the person is cooking in the video. ",
        ), "qwen2_vl",
        "<|video_pad|> Recognize the breakfast type that the person is cooking in the video. ",
    ),
    ("video-classification", "target", Item("lifting_hat"), "qwen2_vl", "lifting_hat"),
    (
        "ssv2", "query",
        Item(
            video=FRAMES,
            instruction="What actions or object interactions are being performed by the person in the video?",
        ), "qwen2_vl",
        "<|video_pad|> What actions or object interactions are being performed by the person in the video?",
    ),
    ("ssv2", "target", Item("holding pen"), "qwen2_vl", "holding pen"),
    (
        "mvbench", "query", MVBENCH, "qwen2_vl",
        "<|video_pad|> Given a video and a question, select the most accurate answer from the provided candidates. "
        "Return only the exact text of your chosen answer. Question:  Why did Castle dress like a fairy when he was "
        "speaking to Emily?\nOptions:\n(A) To get her to trust him\n(B) He secretly loved fairies\n(C) He lost a bet "
        "with Emily\n(D) It was dress like a fairy day at school\n(E) Mrs Ruiz made him dress up",
    ),
    ("mvbench", "target", Item("(A) To get her to trust him"), "qwen2_vl", "(A) To get her to trust him"),
    (
        "videomme", "query", VIDEOMME, "qwen2_vl",
        "<|video_pad|> Given a video and a question, select the most accurate answer from the provided candidates. "
        "Return only the exact text of your chosen answer. Question:  When demonstrating the Germany modern Christmas "
        "tree is initially decorated with apples, candles and berries, which kind of the decoration has the largest "
        "number?\nA. Apples.\nB. Candles.\nC. Berries.\nD. The three kinds are of the same number.",
    ),
    (
        "videomme", "target", Item("D. The three kinds are of the same number."), "qwen2_vl",
        "The three kinds are of the same number",
    ),
    (
        "nextqa", "query", NEXTQA, "qwen2_vl",
        "<|video_pad|> Given a video and a question, select the most accurate answer from the provided candidates. "
        "Return only the exact text of your chosen answer. Question:  what did the baby do after throwing the green "
        "cup away while on the floor near the end\nOptions:\n(A) clap proudly\n(B) the lady sitting down\n(C) lay on "
        "floor\n(D) just picked it up\n(E) crawl",
    ),
    ("nextqa", "target", Item("to fix the camera "), "qwen2_vl", "to fix the camera "),
    (
        "egoschema", "query", EGOSCHEMA, "qwen2_vl",
        "<|video_pad|> Given a video and a question, select the most accurate answer from the provided candidates. "
        "Return only the exact text of your chosen answer. Question:  Taking into account all the actions performed by "
        "c, what can you deduce about the primary objective and focus within the video content?A. C is cooking. B. C "
        "is doing laundry. C. C is cleaning the kitchen. D. C is cleaning dishes. E. C is cleaning the bathroom.",
    ),
    ("egoschema", "target", Item("B. C is doing laundry."), "qwen2_vl", "C is doing laundry"),
    (
        "activitynetqa", "query", ACTIVITYNETQA, "qwen2_vl",
        "<|video_pad|> Given a video and a question, select the most accurate answer from the provided candidates. "
        "Return only the exact text of your chosen answer. Question:  does the girl in black clothes have long hair? "
        "(A) yes; (B) no.",
    ),
    ("activitynetqa", "target", Item("yes"), "qwen2_vl", "yes"),
    (
        "didemo", "query",
        Item(
            "we pan right off the mural and on to a building.",
            instruction="Find a video that includes the following described scenes:",
        ), "qwen2_vl",
        "Find a video that includes the following described scenes: we pan right off the mural and on to a building.",
    ),
    ("didemo", "target", VIDEO, "qwen2_vl", "<|video_pad|> Understand the content of the provided video."),
    (
        "msrvtt", "query", FONDANT, "qwen2_vl",
        "Find a video that contains the following visual content: a woman creating a fondant baby and flower",
    ),
    ("msrvtt", "target", VIDEO, "qwen2_vl", "<|video_pad|> Understand the content of the provided video."),
    (
        "msvd", "query",
        Item(
            "two young men are playing table tennis",
            instruction="Find the video snippet that corresponds to the given summary:",
        ), "qwen2_vl",
        "Find the video snippet that corresponds to the given summary: two young men are playing table tennis",
    ),
    ("msvd", "target", VIDEO, "qwen2_vl", "<|video_pad|> Understand the content of the provided video."),
    (
        "vatex", "query",
        Item(
            "A young man is showing the polish, water. old soft cloth and brush needed to polish shoes with.",
            instruction="Select a video that fits the description provided:",
        ), "qwen2_vl",
        "Select a video that fits the description provided: A young man is showing the polish, water. old soft cloth "
        "and brush needed to polish shoes with.",
    ),
    ("vatex", "target", VIDEO, "qwen2_vl", "<|video_pad|> Understand the content of the provided video."),
    (
        "youcook2", "query",
        Item(
            "pick the ends off the verdalago",
            instruction="Find a video that demonstrates the following action while making a recipe:",
        ), "qwen2_vl",
        "Find a video that demonstrates the following action while making a recipe: pick the ends off the verdalago",
    ),
    ("youcook2", "target", VIDEO, "qwen2_vl", "<|video_pad|> Understand the content of the provided video."),
    (
        "moment-retrieval", "query", LIGHT, "qwen2_vl",
        "<|video_pad|> Find the clip that corresponds to the described scene in the given video: person turn a light "
        "on.",
    ),
    ("moment-retrieval", "target", VIDEO, "qwen2_vl", "<|video_pad|> Understand the content of the provided video."),
    (
        "momentseeker", "query",
        Item(
            "What happened to this window afterward?", video=FRAMES,
            instruction="Find the clip that corresponds to the given sentence and video segment:",
        ), "qwen2_vl",
        "<|video_pad|> Find the clip that corresponds to the given sentence and video segment: What happened to this "
        "window afterward?",
    ),
    (
        "momentseeker", "query",
        Item(
            "Did the man and the woman in the picture embrace?", IMAGE,
            instruction="Select the video clip that aligns with the given text and image:",
        ), "qwen2_vl",
        "<|image_pad|> Select the video clip that aligns with the given text and image: Did the man and the woman in "
        "the picture embrace?",
    ),
    (
        "momentseeker", "query",
        Item(
            "What game did I play after playing Connect 4?",
            instruction="Find the clip that corresponds to the given text:",
        ), "qwen2_vl",
        "Find the clip that corresponds to the given text: What game did I play after playing Connect 4?",
    ),
    ("momentseeker", "target", CLIP, "qwen2_vl", "<|video_pad|> Understand the content of the provided video clip."),
]  # fmt: skip

BACKBONES: list[Case] = [
    (
        "image-qa", "query", PARROT, "phi3_v",
        "<|image_1|>\nRepresent the given image with the following question: What is this bird called?\n",
    ),
    (
        "image-qa", "query", PARROT, "llava_next",
        "<image>\nRepresent the given image with the following question: What is this bird called?\n",
    ),
    (
        "image-qa", "query", PARROT, "qwen2_5_vl",
        "<|image_pad|>\nRepresent the given image with the following question: What is this bird called?\n",
    ),
    (
        "image-qa", "query", PARROT, "gme",
        "\nRepresent the given image with the following question: What is this bird called?\n",
    ),
    (
        "image-qa", "query", PARROT, "lamra",
        "\nRepresent the given image with the following question: What is this bird called?\n",
    ),
    (
        "image-qa", "query", PARROT, "mllama",
        "<|image|><|begin_of_text|>\nRepresent the given image with the following question: What is this bird "
        "called?\n",
    ),
    (
        "image-qa", "query", PARROT, "colpali",
        "\nRepresent the given image with the following question: What is this bird called?\n",
    ),
    ("image-qa", "query", PARROT, "internvideo2", "What is this bird called?\n"),
    (
        "image-qa", "query", PARROT, "e5_v",
        "<|start_header_id|>user<|end_header_id|>\n\n<image>\nWhat is this bird called?\nSummary above image and text "
        "in one word: <|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n\n\n",
    ),
    ("visdoc", "target", DOCUMENT, "phi3_v", "<|image_1|> Understand the content of the provided document image."),
    ("visdoc", "target", DOCUMENT, "llava_next", "<image> Understand the content of the provided document image."),
    (
        "visdoc", "target", DOCUMENT, "qwen2_5_vl",
        "<|image_pad|> Understand the content of the provided document image.",
    ),
    ("visdoc", "target", DOCUMENT, "gme", "Understand the content of the provided document image. "),
    ("visdoc", "target", DOCUMENT, "lamra", "Understand the content of the provided document image. "),
    (
        "visdoc", "target", DOCUMENT, "mllama",
        "<|image|><|begin_of_text|> Understand the content of the provided document image.",
    ),
    ("visdoc", "target", DOCUMENT, "colpali", " Understand the content of the provided document image."),
    ("visdoc", "target", DOCUMENT, "internvideo2", None),
    (
        "visdoc", "target", DOCUMENT, "e5_v",
        "<|start_header_id|>user<|end_header_id|>\n\n<image>\nSummary above image in one word: <|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n \n",
    ),
    (
        "visdoc", "query", STREAM, "colpali",
        "Find a document image that matches the given query: who needs to know about the jet stream",
    ),
    (
        "visdoc", "query", STREAM, "e5_v",
        "<|start_header_id|>user<|end_header_id|>\n\nwho needs to know about the jet stream\nSummary above sentence in "
        "one word: <|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n \n",
    ),
    ("msrvtt", "query", FONDANT, "internvideo2", "a woman creating a fondant baby and flower"),
    ("msrvtt", "target", VIDEO, "llava_next", "<image> Understand the content of the provided video."),
    ("msrvtt", "target", VIDEO, "qwen2_5_vl", "<|video_pad|> Understand the content of the provided video."),
    ("msrvtt", "target", VIDEO, "gme", "Understand the content of the provided video. "),
    ("msrvtt", "target", VIDEO, "lamra", "Understand the content of the provided video. "),
    ("msrvtt", "target", VIDEO, "colpali", " Understand the content of the provided video."),
    ("msrvtt", "target", VIDEO, "internvideo2", None),
    (
        "msrvtt", "target", VIDEO, "e5_v",
        "<|start_header_id|>user<|end_header_id|>\n\n<image>\nSummary above video in one word: <|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n \n",
    ),
    (
        "moment-retrieval", "query", LIGHT, "gme",
        "Find the clip that corresponds to the described scene in the given video: person turn a light on.",
    ),
    (
        "moment-retrieval", "query", LIGHT, "e5_v",
        "<|start_header_id|>user<|end_header_id|>\n\n<image>\nperson turn a light on.\nSummary above video and text in "
        "one word: <|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n \n",
    ),
    (
        "activitynetqa", "query", ACTIVITYNETQA, "gme",
        "<|video_pad|> Given a video and a question, select the most accurate answer from the provided candidates. "
        "Return only the exact text of your chosen answer. Question:  does the girl in black clothes have long hair? "
        "(A) yes; (B) no.",
    ),
    (
        "activitynetqa", "query", ACTIVITYNETQA, "colpali",
        " Given a video and a question, select the most accurate answer from the provided candidates. Return only the "
        "exact text of your chosen answer. Question:  does the girl in black clothes have long hair? (A) yes; (B) no.",
    ),
    (
        "image-t2i", "query", MOPED, "e5_v",
        "Find me an everyday image that matches the given caption: A man with a red helmet on a small moped on a dirt "
        "road.\n",
    ),
    ("image-t2i", "target", GIVEN, "gme", "\nRepresent the given image. \n"),
    ("image-t2i", "target", GIVEN, "internvideo2", "\n"),
    (
        "image-i2i-vg", "target", DISH, "gme",
        "\nSelect the portion of the image that follows the language expressions: \"Dish in top right corner\" \n",
    ),
    ("image-i2i-vg", "target", CROP, "lamra", "\nRepresent the given cropped image of the object "),
    (
        "image-i2i-vg", "target", CROP, "e5_v",
        "<|start_header_id|>user<|end_header_id|>\n\n<image>\n\nSummary above image and text in one word: <|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n\n",
    ),
]  # fmt: skip
GOLDEN = V1 + QWEN2_VL + BACKBONES


@pytest.mark.parametrize(("parser", "side", "item", "backbone", "expected"), GOLDEN)
def test_a_prompt_is_the_same_to_the_byte(
    parser: str, side: Side, item: Item, backbone: str, expected: str | None
) -> None:
    assert render(parser, side, item, backbone) == replace(item, text=expected, instruction=None)


def test_a_newline_or_space_less_or_another_token_is_another_prompt() -> None:
    for parser, side, item, backbone, expected in GOLDEN:
        rendered = render(parser, side, item, backbone).text or ""
        shorter = {rendered[:at] + rendered[at + 1 :] for at, letter in enumerate(rendered) if letter in "\n "}
        assert expected not in shorter
    assert render("image-qa", "query", PARROT, "qwen2_vl") != render("image-qa", "query", PARROT, "llava_next")


def test_every_parser_side_and_backbone_has_a_prompt_written_out() -> None:
    assert {case[:2] for case in GOLDEN} == {(parser, side) for parser in PARSERS for side in ("query", "target")}
    for cases in (V1, BACKBONES):
        assert {case[3] for case in [*QWEN2_VL, *cases]} == set(IMAGE_TOKENS)
    assert {case[3] for case in GOLDEN if case[2].video} == set(VIDEO_TOKENS)


@pytest.mark.parametrize("backbone", ["phi3_v", "llava_next", "qwen2_vl", "qwen2_5_vl"])
@pytest.mark.parametrize(
    ("parser", "side", "item", "v1"),
    [
        (
            "image-cls", "query",
            Item(image=IMAGE, instruction="<|image_1|>\nIdentify the country depicted in the image"),
            "<|image_1|>\nIdentify the country depicted in the image\n",
        ),
        (
            "image-qa", "query", PARROT,
            "<|image_1|>\nRepresent the given image with the following question: What is this bird called?\n",
        ),
        (
            "image-t2i", "query", MOPED,
            "Find me an everyday image that matches the given caption: A man with a red helmet on a small moped on a "
            "dirt road.\n",
        ),
        ("image-t2i", "target", GIVEN, "<|image_1|>\nRepresent the given image.\n"),
        ("image-i2i-vg", "target", CROP, "<|image_1|>\nRepresent the given cropped image of the object"),
        (
            "image-i2i-vg", "target", DISH,
            "<|image_1|>\nSelect the portion of the image that follows the language expressions: \"Dish in top right "
            "corner\"\n",
        ),
    ],
)  # fmt: skip
def test_the_reissue_gives_the_prompts_of_the_published_rows(
    parser: str, side: Side, item: Item, v1: str, backbone: str
) -> None:
    published = Item(v1, item.image)
    assert render(parser, side, item, backbone) == render("mmeb-eval", side, published, backbone)


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        (
            V1_QUESTION,
            Item("Represent the given image with the following question: What is prohibited in the shade?", IMAGE),
        ),
        (PARROT, replace(PARROT, instruction="Represent the given image with the following question:")),
        (Item("<|image_1|>\n", IMAGE, instruction=" \n"), Item(image=IMAGE)),
        (Item("two\nlines ", video=FRAMES), Item("two\nlines", video=FRAMES)),
        (Item(), Item()),
    ],
)
def test_plain_leaves_words_alone(item: Item, expected: Item) -> None:
    assert plain(item) == expected
    assert plain(plain(item)) == plain(item)


def test_what_is_not_known_is_named_with_what_is() -> None:
    with pytest.raises(UsageError, match="image_qa: there is no such parser") as refused:
        render("image_qa", "query", PARROT, "qwen2_vl")
    assert "image-qa" in refused.value.remedy
    with pytest.raises(UsageError, match="qwen9: the prompts of this backbone are not known") as refused:
        render("image-qa", "query", PARROT, "qwen9")
    assert "qwen2_vl" in refused.value.remedy


@pytest.mark.parametrize("backbone", sorted(IMAGE_TOKENS.keys() - VIDEO_TOKENS))
def test_a_model_of_images_alone_refuses_a_video(backbone: str) -> None:
    with pytest.raises(UsageError, match=f"{backbone}: this backbone takes no video"):
        render("msrvtt", "target", VIDEO, backbone)


@pytest.mark.parametrize(("parser", "side"), [("visdoc", "query"), ("image-t2i", "query"), ("image-qa", "query")])
def test_a_prompt_without_its_instruction_is_no_prompt(parser: str, side: Side) -> None:
    with pytest.raises(DataInvalid, match="has no instruction"):
        render(parser, side, Item("a caption", IMAGE), "qwen2_vl")
