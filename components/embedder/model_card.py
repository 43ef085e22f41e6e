"""The `README.md` of a model directory: what the Hugging Face hub asks of a model, and how it is used."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import yaml

from components.embedder.runtime import DESCRIPTION, Description

CARD = "README.md"
REQUIREMENTS = "pip install 'sentence-transformers>=6' pillow"


@dataclass(frozen=True)
class Origin:
    """What a model was made from: a data set, and models by their names on the hub. Languages are CLDR codes."""

    dataset: str
    licences: tuple[str, ...] = ()
    languages: tuple[str, ...] = ()
    base_models: tuple[str, ...] = ()


def model_card(directory: Path, name: str, dimension: int, matryoshka: list[int], origin: Origin) -> str:
    """Returns the card of the model in `directory`, of vectors of `dimension` numbers, whose first ones are vectors too
    for each number in `matryoshka`. The same model gives the same card."""
    ours = Description.read(directory) if (directory / DESCRIPTION).is_file() else None
    text = _dual_encoder(name, ours) if ours else _whole(name)
    shorter = [str(size) for size in sorted(matryoshka, reverse=True) if size < dimension]
    cut = (
        f"They can be cut to {' or '.join(shorter)} (Matryoshka): pass `truncate_dim={shorter[0]}` and "
        "`normalize_embeddings=True` to `encode`."
        if shorter
        else "They were not trained to be cut (Matryoshka)."
    )
    sources = "; ".join((*origin.base_models, *origin.licences)) or "not recorded"
    return f"""---
{yaml.safe_dump(_metadata(origin, ours is not None), sort_keys=False, allow_unicode=True)}---

# {name}

An embedding model that [sentence-transformers](https://sbert.net) loads, trained with Embedline on the data set
{origin.dataset}.

{text}
**Dimensions**: vectors have {dimension} numbers. {cut}

**Licence**: that of what the weights were made from counts: {sources}.
"""


def _metadata(origin: Origin, dual_encoder: bool) -> dict[str, object]:
    """Returns what stands in front of the card, without what is not known."""
    tags = ["sentence-transformers", "feature-extraction", *(["multimodal", "dual-encoder"] if dual_encoder else [])]
    known = {
        "language": list(origin.languages),
        "license": "other",
        "license_name": "of-its-sources",
        "library_name": "sentence-transformers",
        "pipeline_tag": "feature-extraction",
        "tags": tags,
        "base_model": list(origin.base_models),
        "datasets": [origin.dataset],
    }
    return {key: value for key, value in known.items() if value}


def _dual_encoder(name: str, description: Description) -> str:
    return f"""```sh
{REQUIREMENTS}
```

```python
from PIL import Image
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("{name}", trust_remote_code=True)  # this directory, or its name on the hub
texts = model.encode(["a sad cat", "a red tree"])
image = Image.open("image.png")
images = model.encode([image])
both = model.encode([{{"text": "the same, but blue", "image": image}}])
instructed = model.encode([image], prompt="What is shown?")
print(model.similarity(texts, images))
```

`trust_remote_code` runs one file, `modeling_embedline.py` in this directory (Apache-2.0); read it first.

**Input**: text of at most {description.max_tokens} tokens (more are cut), an image (padded to a square of
{description.image_size} pixels), or both, whose vector is the normalised sum of their vectors. An instruction
(`prompt`) says what about an item counts: its vector joins the sum with weight {description.instruction_weight:g}.
"""


def _whole(name: str) -> str:
    return f"""```sh
{REQUIREMENTS}
```

```python
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("{name}")  # this directory, or its name on the hub
print(model.modalities)  # what goes into encode
texts = model.encode(["a sad cat", "a red tree"], normalize_embeddings=True)
print(model.similarity(texts, texts))
```

**Input**: what `model.modalities` names. An instruction goes in as `prompt`: a chat model takes it as system message,
others before the text.
"""
