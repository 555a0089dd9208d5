"""The findings of README.md: the sentences of findings.json, filled with numbers from results/.

A finding lists the claims that it rests on, with the verdict for which its sentence was written, and may list all
claims of a study that improve. If one of these changes, the sentence has to be rewritten; an error names it.
"""

import functools
import json
import statistics
from pathlib import Path

from distill_utils import studies

FINDINGS = json.loads(Path(__file__).with_name("findings.json").read_text(encoding="utf-8"))


committed = functools.cache(studies.results)  # reading a file also checks its sums, which takes a while


def findings(say) -> str:
    """The list of findings. Raises ValueError where a verdict is not the one a sentence was written for."""
    lines = []
    for finding in FINDINGS:
        guard(finding)
        evidence = [numbers(json.dumps(claim), say) for claim in finding["claims"]]
        lines.append(f"- {say(finding['sentence']).format(*evidence)}")
    return "\n".join(lines)


def guard(finding: dict) -> None:
    advice = f"rewrite this sentence in tools/tables/findings.json and in zh.json: {finding['sentence']}"
    for claim in finding["claims"]:
        found = row_of(claim)["verdict"]
        if found != claim["verdict"]:
            raise ValueError(f"“{claim['claim']}” is now “{found}”, no longer “{claim['verdict']}”: {advice}")
    for name, expected in finding.get("only_these_improve", {}).items():
        rows = committed(*name.split("-"))["verdicts"]
        better = [row["claim"] for row in rows if row["verdict"] == "improves"]
        if better != expected:
            raise ValueError(f"in {name}, {better} improve, no longer {expected}: {advice}")


def row_of(claim: dict) -> dict:
    """The verdict row of a claim; "metric" tells claims of one name apart."""
    rows = committed(claim["study"], claim["dataset"])["verdicts"]
    rows = [row for row in rows if row["claim"] == claim["claim"]]
    rows = [row for row in rows if row["metric"] == claim.get("metric", row["metric"])]
    if len(rows) != 1:
        raise ValueError(f"results/ has {len(rows)} claims that fit {claim}: correct tools/tables/findings.json")
    return rows[0]


@functools.cache
def numbers(claim: str, say) -> dict:
    """What a sentence may use of a claim (given as JSON): the fields of its verdict row, the means over seeds of both
    sides (treated, control), the difference in words, and the parameters of the smallest network, if counted."""
    key = json.loads(claim)
    row, runs = row_of(key), committed(key["study"], key["dataset"])["runs"]
    declared = studies.find(key["study"]).claims(key["dataset"])
    (sides,) = (one for one in declared if (one.name, one.metric) == (row["claim"], row["metric"]))
    sizes = [run["metrics"]["parameters"] for run in runs if "parameters" in run["metrics"]]
    return row | {
        "treated": mean(sides.treated(runs), row["unit"]),
        "control": mean(sides.control(runs), row["unit"]),
        "difference": difference(row, say),
        "parameters": f"{min(sizes, default=0):,}",
    }


def mean(values: list[float], unit: str) -> str:
    value = statistics.mean(values)
    return f"{100 * value:.1f} %" if unit == "points" else f"{value:.0f}" if unit == "errors" else f"{value:.3g}"


def difference(row: dict, say) -> str:
    """studies.difference in either language."""
    text = studies.difference(row)
    for words in ("none: the same runs", "one seed", row["unit"]):
        text = text.replace(words, say(words)) if words else text
    return text
