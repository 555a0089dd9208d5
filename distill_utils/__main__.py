"""python -m distill_utils …: see distill_utils/commands."""

import sys

from distill_utils.commands import main

if __name__ == "__main__":
    sys.exit(main())
