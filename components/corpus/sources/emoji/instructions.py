"""The instructions of the emoji corpus, in the manner of MMEB's."""

IMAGE = "Represent the given image."
CROP = "Represent the given cropped image of the object."
INSTRUCTIONS = {
    "Group": "Identify the group of symbols that the image belongs to.",
    "Subgroup": "Identify the kind of symbol that the image shows.",
    "SkinTone": "Identify the skin tone of the person in the image.",
    "Question": "Represent the given image with the following question:",
    "Translation": "",  # names of one thing in two languages: what differs is the words alone
    "NameToImage": "Find an image that shows the given name:",
    "ImageToName": "Find the name of the symbol in the image.",
    "KeywordsToImage": "Find an image that fits the given keywords:",
    "Composed": "Given an image, find the same symbol with the described change:",
    "Grounding": "Select the portion of the image that isolates the object labeled as",
}
SKILLS = {"what": "WhatIsShown", "count": "HowMany", "colour": "Colour", "left": "LeftOf"}
