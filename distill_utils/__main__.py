"""The commands: python -m distill_utils doctor | run | study NAME | checks | readme."""

import argparse
import sys

from distill_utils import checks, doctor, readme, series, settings, store, studies
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
    tables = commands.add_parser("readme", help="write the generated tables into README.md")
    tables.add_argument("--check", action="store_true", help="write nothing; fail if they differ")
    study = commands.add_parser("study", help="run a study of many seeds; what is missing of it, if it was begun")
    study.add_argument("name", help=f"one of {', '.join(studies.names())}")
    study.add_argument("--dataset", default=settings.dataset())
    study.add_argument("--seeds", type=int, default=5)
    study.add_argument("--workers", type=int, help="processes of one thread each; default: one per core")
    study.add_argument("--replace", action="store_true", help="replace results that were made with other settings")
    chosen = parser.parse_args(arguments)
    try:
        if chosen.command == "doctor":
            return 0 if doctor.examine() else 1
        if chosen.command == "run":
            series.run(chosen.notebooks, in_place=chosen.in_place)
        if chosen.command == "study":
            path = studies.conduct(
                chosen.name, chosen.dataset, chosen.seeds, workers=chosen.workers, replace=chosen.replace
            )
            print(f"wrote {path}")
        if chosen.command == "checks":
            print(checks.table())
        if chosen.command == "readme" and not readme.update(check=chosen.check):
            print("README.md differs from what is generated" if chosen.check else "README.md written")
            return int(chosen.check)
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
