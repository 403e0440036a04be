"""Run ``radzero extract``: read the sources, and write the output, a summary and the audit page."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from rich.table import Table

from radzero.reports.audit import audit_page
from radzero.reports.engine import Engine
from radzero.reports.extraction import RulesPool, Summary, extract_reports, read_lines
from radzero.reports.llm import Endpoint, LLMEngine
from radzero.reports.sections import Report
from radzero.reports.sources import Columns, read_reports, report_files


@dataclass(frozen=True)
class Options:
    """Options of an extraction.

    Attributes:
        columns: which columns of tables and JSON Lines to read.
        processes: number of processes of the rules engine.
        vocabulary, cues: YAML files of the rules engine's words; None for the package's.
        endpoint: endpoint of the language model; None for the rules engine.
        prompt, cache: files of the language model's system prompt and cached answers; None for the package's prompt and
            for ``OUTPUT.cache``.
        audit: number of reports that the audit page shows; 0 for no page.
    """

    columns: Columns = field(default_factory=Columns)
    processes: int = 1
    vocabulary: Path | None = None
    cues: Path | None = None
    endpoint: Endpoint | None = None
    prompt: Path | None = None
    cache: Path | None = None
    audit: int = 0


@dataclass(frozen=True)
class Result:
    """Result of an extraction.

    Attributes:
        summary: counts of the output.
        costs: label -> figure of what the language model cost; empty for the rules.
        page: path of the audit page; None where none was wanted.
    """

    summary: Summary
    costs: dict[str, str]
    page: Path | None

    def table(self) -> Table:
        """Return the counts as a table for a terminal."""
        s = self.summary
        table = Table("figure", "value")
        extracted = s.reports - sum(s.failed.values())
        rows = {
            "reports": str(s.reports),
            "  of them extracted by an earlier run": str(s.resumed) if s.resumed else "",
            "  without a finding": str(s.empty),
            "could not be read": str(s.unread) if s.unread else "",
            "finding-sentences": str(s.sentences),
            "  per report": f"{s.sentences / extracted:.2f}" if extracted else "",
            **{
                f"  {name}": f"{count} ({count / s.sentences:.1%})"
                for name, count in sorted(s.polarities.items(), key=lambda item: -item[1])
            },
            "further mentions of the same": str(s.merged),
            "set aside": str(sum(s.set_aside.values())),
            **{f"  {reason}": str(count) for reason, count in s.set_aside.most_common()},
            **{f"failed: {reason}": str(count) for reason, count in s.failed.most_common()},
            **self.costs,
        }
        for label, value in rows.items():
            if value:
                table.add_row(label, value)
        return table


def run_extraction(
    inputs: Sequence[Path],
    output: Path,
    options: Options,
    *,
    on_report: Callable[[int, int | None], None] = lambda done, total: None,
) -> Result:
    """Extract every report of ``inputs`` into ``output``; resume where an earlier run stopped.

    Args:
        inputs: files and folders to read.
        output: JSON Lines file to write.
        options: options of the extraction.
        on_report: called with the number of lines that are written, and the number that there will be (None where the
            inputs hold tables, JSON Lines or archives, whose reports are not counted in advance).

    Raises:
        FileNotFoundError: when an input does not exist, or a folder holds no report file.
        ValueError: when another run made ``output``, ``output`` is the only input, or the words cannot be used.
        EndpointError: when the language model stays unreachable or refuses.
    """
    own = output.resolve()
    files = [f for f in report_files(inputs) if f.name != output.name or f.resolve() != own]  # it may be an input
    if not files:
        raise ValueError(f"{output}: is the only input; give another output")
    llm = None
    engine: Engine
    if options.endpoint:
        cache = options.cache or output.with_name(output.name + ".cache")
        engine = llm = LLMEngine(options.endpoint, cache, options.prompt)
    else:
        engine = RulesPool(options.vocabulary, options.cues, options.processes)
    total = len(files) if all(f.suffix.lower() in (".xml", ".txt") for f in files) else None
    costs: dict[str, str] = {}
    try:
        summary = extract_reports(
            read_reports(files, options.columns), output, engine, on_report=lambda done: on_report(done, total)
        )
    finally:
        if llm:
            llm.close()
    if llm and options.endpoint:
        usage = llm.usage
        costs = {
            "requests to the endpoint": str(usage.requests),
            "answers from the cache": str(usage.cached),
            "tokens read, written": f"{usage.tokens_in}, {usage.tokens_out}",
        }
        if options.endpoint.price_in or options.endpoint.price_out:
            costs["cost"] = f"{usage.cost(options.endpoint):.4f}"
    page = None
    if options.audit:
        page = output.with_suffix(".html")
        page.write_text(_page(files, output, options), encoding="utf-8", errors="backslashreplace")
    return Result(summary, costs, page)


def _page(files: Sequence[Path], output: Path, options: Options) -> str:
    """Build the audit page of the reports whose sources have the lowest hashes.

    That sample does not depend on the reports' order; a report that is added enters it only if its hash is low enough.
    """
    lines = {record["source"]: record for record in read_lines(output) if record.get("error") != "unread"}
    ranked = sorted(lines, key=lambda source: hashlib.sha256(source.encode(errors="backslashreplace")).digest())
    wanted = set(islice(ranked, options.audit))
    pairs = [
        (report, lines[report.source])
        for report in read_reports(files, options.columns)
        if isinstance(report, Report) and report.source in wanted
    ]
    return audit_page(f"{len(pairs)} of {len(lines)} reports of {output.name}", pairs)
