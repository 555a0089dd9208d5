"""python -m distill_utils …: see distill_utils/commands."""

import io
import sys

from distill_utils.commands import main

if __name__ == "__main__":
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a console that lacks θ or … shows a question mark
    sys.exit(main())
