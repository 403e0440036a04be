"""``radzero demo``: phantoms, questions, answers and pictures, in two minutes and without network."""

from pathlib import Path

from rich.console import Console
from rich.table import Table

from radzero.phantom.dicom import write_dicom
from radzero.phantom.film import make_film
from radzero.phantom.findings import Finding, Grade
from radzero.phantom.reports import write_report
from radzero.pictures import render_film, render_sheet
from radzero.prediction.model import load
from radzero.prediction.reading import Reading

SEED = 2024
"""Seed of the demo's phantoms; the packaged model was trained on those of seed 1."""

_CASES: tuple[tuple[str, int, tuple[Finding, ...], tuple[str, ...]], ...] = (
    (
        "right effusion, cardiomegaly",
        0,
        (Finding("pleural effusion", Grade.MODERATE, "right"), Finding("cardiomegaly", Grade.MODERATE)),
        (
            "There is right pleural effusion",
            "There is left pleural effusion",
            "There is no pleural effusion",
            "There is cardiomegaly",
        ),
    ),
    (
        "left pneumothorax, pacemaker",
        1,
        (Finding("pneumothorax", Grade.PLAIN, "left"), Finding("pacemaker", Grade.PLAIN, "right")),
        (
            "There is left pneumothorax",
            "There is right pneumothorax",
            "There is pacemaker",
            "There is consolidation",
        ),
    ),
    (
        "nodule, consolidation",
        2,
        (
            Finding("nodule", Grade.PLAIN, "left", "upper"),
            Finding("consolidation", Grade.MODERATE, "right", "lower"),
        ),
        (
            "There is nodule in the left upper lung zone",
            "There is consolidation in the right lower lung zone",
            "There is pleural effusion",
            "There is no pneumothorax",
        ),
    ),
    (
        "normal",
        3,
        (),
        (
            "There is pleural effusion",
            "There is no pleural effusion",
            "There is cardiomegaly",
            "There is pneumothorax",
        ),
    ),
)  # fmt: skip


def run_demo(output: Path, console: Console) -> list[Path]:
    """Draw four phantoms as DICOM files, read them with the packaged model, print a table and write overlays.

    Returns:
        The paths of the comparison sheets, one per phantom.
    """
    model = load()
    console.print(f"[yellow]{model.notice}[/]")
    films, sheets = output / "films", output / "overlays"
    films.mkdir(parents=True, exist_ok=True)
    sheets.mkdir(parents=True, exist_ok=True)
    table = Table("film", "sentence", "probability", "what is on it")
    written = []
    for title, index, findings, sentences in _CASES:
        film = make_film(SEED, index, size=768, findings=findings)
        stem = title.replace(", ", "-").replace(" ", "-")
        path = films / f"{stem}.dcm"
        write_dicom(film, path)
        (films / f"{stem}.txt").write_text(write_report(film).text, encoding="utf-8")
        (reading,) = model.predict(path, sentences)
        for k, sentence in enumerate(sentences):
            table.add_row(
                path.name if k == 0 else "", sentence, f"{reading.probabilities[k]:.3f}", title if k == 0 else ""
            )
        table.add_section()
        written.append(_sheet(reading, title, sheets / f"{stem}.png"))
    console.print(table)
    console.print(f"films and their reports: {films}\nsimilarity maps: {sheets}", highlight=False, soft_wrap=True)
    console.print(f"[bold]look at[/] {written[0]}", highlight=False, soft_wrap=True)
    return written


def _sheet(reading: Reading, title: str, path: Path) -> Path:
    """Save the plain image beside the overlay of every sentence; return the path."""
    film_alone = render_film(
        reading.film, title=f"phantom: {title}", notice=reading.notice, warnings=reading.film_warnings
    )
    panels = [film_alone, *(reading.overlay(k) for k in range(len(reading.sentences)))]
    render_sheet(panels, columns=3).save(path)
    return path
