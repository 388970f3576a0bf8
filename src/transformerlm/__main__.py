"""`python -m transformerlm`: the same as the program `transformerlm`."""

import sys

from transformerlm.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
