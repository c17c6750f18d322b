"""`python -m skipwise`: the command line."""

import sys

from skipwise.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
