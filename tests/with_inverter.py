"""`python -m tests.with_inverter api` is `wattline api` with a third kind of reading declared."""

from __future__ import annotations

import sys

from telemetry import kinds
from tests.inverter import INVERTER

kinds.KINDS += (INVERTER,)
kinds.BY_NAME = {kind.name: kind for kind in kinds.KINDS}

if __name__ == "__main__":
    from wattline.cli import main  # what it imports has to find all kinds

    sys.exit(main())
