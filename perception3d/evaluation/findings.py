"""What a validator found: findings, gathered into a report that stays small on hopeless files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Severity = Literal["error", "warning"]


@dataclass(frozen=True)
class Finding:
    """One thing wrong (error) or suspicious (warning).

    Attributes:
        code: stable name of the rule, e.g. "rotation-zero".
        severity: "error" (the file must not be sent) or "warning".
        token: the sample's token, None for the file as a whole.
        place: field and box inside the sample, e.g. "[3].velocity"; "" for the sample itself.
        message: what was found and what to do.
    """

    code: str
    severity: Severity
    token: str | None
    place: str
    message: str

    def __str__(self) -> str:
        where = "" if self.token is None else f" sample {shown(self.token)}"
        place = f" {self.place}" if self.place else ""
        return f"{self.severity} {self.code}{where}{place}: {self.message}"


@dataclass(frozen=True)
class Report:
    """Verdict on a results file.

    Attributes:
        findings: the first few of every code, in the order of the file.
        counts: number of findings of every code, also those not listed.
        num_samples, num_boxes, num_bytes: what was read.
    """

    findings: tuple[Finding, ...]
    counts: Mapping[str, int]
    num_samples: int
    num_boxes: int
    num_bytes: int

    @property
    def errors(self) -> tuple[Finding, ...]:
        """Findings for which the file must not be sent."""
        return tuple(finding for finding in self.findings if finding.severity == "error")

    @property
    def warnings(self) -> tuple[Finding, ...]:
        """Findings that deserve a look."""
        return tuple(finding for finding in self.findings if finding.severity == "warning")

    @property
    def accepted(self) -> bool:
        """Whether there is no error."""
        return not self.errors

    def __str__(self) -> str:
        verdict = "accepted" if self.accepted else "REJECTED"
        lines = [
            f"{verdict}: {self.num_samples:,} samples, {self.num_boxes:,} boxes, "
            f"{self.num_bytes:,} bytes"
        ]
        lines += [f"  {finding}" for finding in self.findings]
        listed = Counter(finding.code for finding in self.findings)
        for code, count in self.counts.items():
            if count > listed[code]:
                lines.append(f"  ... {code}: {count - listed[code]:,} more of these")
        return "\n".join(lines)


@dataclass
class FindingList:
    """Collects findings and keeps the first `limit` of every code."""

    limit: int
    kept: list[Finding] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    token: str | None = None

    def error(self, code: str, message: str, place: str = "") -> None:
        """Notes an error of the current sample (or of the file when `token` is None)."""
        self._note(code, "error", message, place)

    def warning(self, code: str, message: str, place: str = "") -> None:
        """Notes a warning of the current sample (or of the file when `token` is None)."""
        self._note(code, "warning", message, place)

    def _note(self, code: str, severity: Severity, message: str, place: str) -> None:
        self.counts[code] += 1
        if self.counts[code] <= self.limit:
            self.kept.append(Finding(code, severity, self.token, place, message))


def shown(value: object, limit: int = 60) -> str:
    """`value` as ASCII text, cut to `limit` characters (files may hold anything)."""
    try:
        text = ascii(value)
    except (ValueError, RecursionError):  # an integer too long to print, a nest too deep
        text = f"a {type(value).__name__} that cannot be printed"
    return text if len(text) <= limit else text[: limit - 3] + "..."
