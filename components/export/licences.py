"""The licences of what a bundle holds, by SPDX names (https://spdx.org/licenses)."""

from __future__ import annotations

from collections.abc import Iterable

import yaml

from components.backends.directory import find_directory
from components.errors import EmbedlineError

UNKNOWN = "NOASSERTION"
"""What SPDX writes where nobody has said what the licence is."""
OURS = "Apache-2.0"
KNOWN = {
    name.lower(): name
    for name in (
        "AFL-3.0", "Apache-2.0", "Artistic-2.0", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0", "CC-BY-2.0", "CC-BY-3.0",
        "CC-BY-4.0", "CC-BY-NC-2.0", "CC-BY-NC-4.0", "CC-BY-NC-ND-4.0", "CC-BY-NC-SA-4.0", "CC-BY-ND-4.0",
        "CC-BY-SA-3.0", "CC-BY-SA-4.0", "CC0-1.0", "CDLA-Permissive-2.0", "ISC", "MIT", "MPL-2.0", "ODC-By-1.0",
        "ODbL-1.0", "OFL-1.1", "PDDL-1.0", "Unicode-3.0", "Unicode-DFS-2016", "Unlicense", "WTFPL", "Zlib",
    )
}  # fmt: skip
"""Those that models and data sets on the hub are under, by the small letters that it writes them in."""


def spdx(name: str) -> str:
    """Returns the SPDX name of a licence as the hub calls it; UNKNOWN where it has none."""
    return KNOWN.get(name.strip().lower(), UNKNOWN)


def together(names: Iterable[str]) -> str:
    """Returns the expression for what is under all of these licences at once; UNKNOWN if one is, or if there are
    none."""
    found = sorted(set(names))
    return UNKNOWN if UNKNOWN in found or not found else " AND ".join(found)


def model_licence(model: str) -> str:
    """Returns the licence that the card of a model, a directory or a name on the hub, states in its metadata."""
    try:
        card = find_directory(model) / "README.md"
        _, metadata, _ = card.read_text(encoding="utf-8").split("---\n", 2)
        stated = yaml.safe_load(metadata)["license"]
    except (EmbedlineError, OSError, ValueError, KeyError, TypeError, yaml.YAMLError):
        return UNKNOWN
    return together(map(spdx, stated if isinstance(stated, list) else [str(stated)]))
