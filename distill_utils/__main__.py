"""The commands: python -m distill_utils doctor | run | checks."""

import argparse
import sys

from distill_utils import checks, doctor, series, store
from distill_utils.data import DataError
from distill_utils.training import TrainingDiverged


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m distill_utils", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("doctor", help="look at Python, packages, data, disk, threads and GPU; say what to mend")
    run = commands.add_parser("run", help="execute the notebooks; outputs, pages and checks go to build/")
    run.add_argument("notebooks", nargs="*", help="beginnings of notebook names, such as 02; default: all")
    run.add_argument("--in-place", action="store_true", help="also write the outputs into notebooks/")
    commands.add_parser("checks", help="print the table of checks of the last run")
    chosen = parser.parse_args(arguments)
    try:
        if chosen.command == "doctor":
            return 0 if doctor.examine() else 1
        if chosen.command == "run":
            series.run(chosen.notebooks, in_place=chosen.in_place)
        if chosen.command == "checks":
            print(checks.table())
    except (
        ValueError,
        OSError,
        DataError,
        store.DamagedFile,
        TrainingDiverged,
        series.NotebookFailed,
    ) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
