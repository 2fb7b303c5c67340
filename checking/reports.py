"""What a check found, as a table, Markdown, JSON, SARIF 2.1.0 or annotations of GitHub."""

import json
from collections.abc import Callable, Sequence
from typing import Any, TextIO

from code_rlm import __version__
from code_rlm.checking.limits import Finding
from code_rlm.console import quantity, write_table

_HEAD = ("", "file", "metric", "before", "now", "change", "P(exceeds)", "P(grew)", "familiarity")
_SARIF = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"


def write_report(findings: Sequence[Finding], skipped: Sequence[str], style: str, out: TextIO) -> None:
    """Writes a report.

    Args:
        findings: Of every file and metric.
        skipped: A line for each file left out.
        style: One of `STYLES`.
        out: Where to.
    """
    STYLES[style](findings, skipped, out)


def _verdict(finding: Finding) -> str:
    if finding.breaches:
        return "breach"
    return "unfamiliar" if finding.is_unfamiliar else "ok"


def _share(value: float | None, sign: bool = False) -> str:
    return "" if value is None else f"{value:+.0%}" if sign else f"{value:.0%}"


def _cells(finding: Finding) -> tuple[str, ...]:
    interval = f"{quantity(finding.low, finding.unit)} to {quantity(finding.high, finding.unit)}"
    grew = finding.probability_grew if finding.probability_increase is None else finding.probability_increase
    by = "" if not finding.most_increase else f" by {finding.most_increase:.0%}"
    return (
        _verdict(finding),
        f"{finding.file}:{finding.line}" if finding.line > 1 else finding.file,
        finding.metric,
        "new" if finding.before is None else quantity(finding.before, finding.unit),
        f"{quantity(finding.value, finding.unit)} ({interval})",
        _share(finding.change, sign=True),
        _share(finding.probability_exceeds),
        "" if grew is None else _share(grew) + by,
        "" if finding.familiarity is None else f"{finding.familiarity:.2f}",
    )


def summary(findings: Sequence[Finding], skipped: Sequence[str]) -> str:
    """Returns one line on what was checked."""
    breaches = sum(bool(each.breaches) for each in findings)
    unfamiliar = sum(each.is_unfamiliar for each in findings)
    parts = [
        f"{_counted(len({each.file for each in findings}), 'changed file')} checked",
        _counted(breaches, "breach", "breaches"),
    ]
    if unfamiliar:
        parts.append(f"{_counted(unfamiliar, 'prediction')} for code unlike the training rows")
    if skipped:
        parts.append(f"{_counted(len(skipped), 'file')} skipped")
    return ", ".join(parts)


def _counted(count: int, one: str, many: str = "") -> str:
    return f"{count} {one if count == 1 else many or one + 's'}"


def _write_table(findings: Sequence[Finding], skipped: Sequence[str], out: TextIO) -> None:
    if findings:
        write_table(_HEAD, [_cells(each) for each in findings], out)
    out.write(f"{summary(findings, skipped)}\n")
    out.writelines(f"{text}\n" for each in findings for text in (f"{each.file}: {words}" for words in each.breaches))


def _write_markdown(findings: Sequence[Finding], skipped: Sequence[str], out: TextIO) -> None:
    out.write(f"### Predicted cost of this change\n\n{summary(findings, skipped)}.\n")
    if findings:
        rows = [_HEAD, ["---"] * len(_HEAD), *(_cells(each) for each in findings)]
        out.write("\n" + "".join(f"| {' | '.join(_escaped(cell) for cell in row)} |\n" for row in rows))
    out.writelines(f"\n- **{each.file}**: {words}\n" for each in findings for words in each.breaches)
    reasons = {each.file: "; ".join(each.reasons) for each in findings if each.is_unfamiliar}
    out.writelines(f"\n- {file} is unlike the training rows: {_escaped(words)}\n" for file, words in reasons.items())
    out.writelines(f"\n- skipped: {_escaped(line)}\n" for line in skipped)


def _escaped(cell: str) -> str:
    return cell.replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")


def _write_json(findings: Sequence[Finding], skipped: Sequence[str], out: TextIO) -> None:
    report = {
        "version": __version__,
        "breaches": sum(bool(each.breaches) for each in findings),
        "findings": [each.as_dict() for each in findings],
        "skipped": list(skipped),
    }
    json.dump(report, out, indent=1, allow_nan=False)
    out.write("\n")


def _write_sarif(findings: Sequence[Finding], skipped: Sequence[str], out: TextIO) -> None:
    results: list[dict[str, Any]] = []
    for each in findings:
        texts = [("error", words) for words in each.breaches]
        if each.is_unfamiliar:
            because = "; ".join(each.reasons) or "no single reason"
            texts.append(("note", f"{each.metric}: the code is unlike the training rows ({because})"))
        results += [_result(each, level, text) for level, text in texts]
    rules = [
        {"id": name, "shortDescription": {"text": f"Predicted {name} within its limits"}}
        for name in dict.fromkeys(each.metric for each in findings)
    ]
    driver = {"name": "code-rlm", "version": __version__, "rules": rules}
    notes = [{"level": "note", "message": {"text": line}} for line in skipped]
    invocation = {"executionSuccessful": True, "toolExecutionNotifications": notes}
    run = {"tool": {"driver": driver}, "invocations": [invocation], "results": results}
    json.dump({"$schema": _SARIF, "version": "2.1.0", "runs": [run]}, out, indent=1)
    out.write("\n")


def _result(finding: Finding, level: str, text: str) -> dict[str, Any]:
    place = {"artifactLocation": {"uri": finding.file}, "region": {"startLine": finding.line}}
    return {
        "ruleId": finding.metric,
        "level": level,
        "message": {"text": text},
        "locations": [{"physicalLocation": place}],
    }


def _write_github(findings: Sequence[Finding], skipped: Sequence[str], out: TextIO) -> None:
    for each in findings:
        for words in each.breaches:
            out.write(_annotation("error", each, words))
        if each.is_unfamiliar:
            because = "; ".join(each.reasons) or "no single reason"
            out.write(_annotation("notice", each, f"unlike the training rows, not checked against limits: {because}"))
    out.writelines(f"::notice title=code-rlm::{_data('skipped: ' + line)}\n" for line in skipped)
    out.write(f"{summary(findings, skipped)}\n")


def _annotation(kind: str, finding: Finding, text: str) -> str:
    """Returns a workflow command; GitHub reads `%`, line breaks, and in properties `:` and `,` in escaped form."""
    name = _data(finding.file).replace(":", "%3A").replace(",", "%2C")
    title = _data(finding.metric).replace(":", "%3A").replace(",", "%2C")
    return f"::{kind} file={name},line={finding.line},title={title}::{_data(text)}\n"


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


STYLES: dict[str, Callable[[Sequence[Finding], Sequence[str], TextIO], None]] = {
    "table": _write_table,
    "markdown": _write_markdown,
    "json": _write_json,
    "sarif": _write_sarif,
    "github": _write_github,
}

__all__ = ["STYLES", "summary", "write_report"]
