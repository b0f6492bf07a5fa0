"""`python -m birdsd.cli`: the command line without the installed program."""

import sys

from birdsd.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
