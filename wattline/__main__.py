"""`python -m wattline`."""

import sys

from wattline.cli import main

sys.exit(main())
