"""What watches the line and the machine that it runs on."""

import components  # noqa: F401  (first: it sets the switches that other tools read at import)
