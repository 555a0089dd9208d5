"""python -m distill_utils …: see distill_utils/commands."""

import sys

from distill_utils.commands import main

if __name__ == "__main__":
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # a console that lacks θ or … shows a question mark
    sys.exit(main())
