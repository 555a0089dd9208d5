"""The commands: python -m distill_utils doctor | run | study NAME | checks | readme."""

import argparse
import sys

from distill_utils import settings


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
    study.add_argument("name", help="an unknown name lists the known ones")
    study.add_argument("--dataset", default=settings.dataset())
    study.add_argument("--seeds", type=int, default=5)
    study.add_argument("--workers", type=int, help="processes of one thread each; default: one per core")
    study.add_argument("--replace", action="store_true", help="replace results that were made with other settings")
    chosen = parser.parse_args(arguments)
    if chosen.command == "doctor":
        from distill_utils import doctor  # alone, so that it can speak where a package is missing

        return 0 if doctor.examine() else 1
    return _run(chosen)


def _run(chosen: argparse.Namespace) -> int:
    from distill_utils import checks, data, readme, series, store, studies, training

    told = (ValueError, OSError, data.DataError, store.DamagedFile, training.TrainingDiverged, series.NotebookFailed)
    try:
        if chosen.command == "run":
            series.run(chosen.notebooks, in_place=chosen.in_place)
        if chosen.command == "study":
            options = {"workers": chosen.workers, "replace": chosen.replace}
            print(f"wrote {studies.conduct(chosen.name, chosen.dataset, chosen.seeds, **options)}")
        if chosen.command == "checks":
            print(checks.table())
        if chosen.command == "readme" and not readme.update(check=chosen.check):
            print("README.md differs from what is generated" if chosen.check else "README.md written")
            return int(chosen.check)
    except told as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
