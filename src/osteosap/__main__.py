"""``python -m osteosap`` is ``osteosap``."""

import sys

from osteosap.cli import main

if __name__ == "__main__":
    sys.exit(main())
