"""`python -m hyperfields.cli VERB`."""

import sys

from hyperfields.cli import main

if __name__ == "__main__":
    sys.exit(main())
