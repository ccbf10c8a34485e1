"""``python -m rlax_lab``."""

import sys

from rlax_lab.cli import main

if __name__ == "__main__":
    sys.exit(main())
