"""Draw a run's curves, and write its model card."""

import json
from pathlib import Path
from typing import Any

import torch
import transformers

import radzero
from radzero._files import replacing
from radzero.models.base import VisionLanguageModel
from radzero.training.config import TrainConfig

_SMOOTHED = 0.98
_CARD = """# {name}

> **{notice}**

A {method} model: ask a chest radiograph a sentence, get a probability{maps}.

```python
import radzero

model = radzero.load("this folder")
reading = model.predict("film.dcm", "There is left pleural effusion")[0]
```

| | |
| --- | --- |
{table}

## Recipe

```yaml
{recipe}```
"""


def records_of(run: Path) -> list[dict[str, Any]]:
    """Return the lines of ``metrics.jsonl``; none where the file is not there."""
    path = run / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def draw_progress(run: Path) -> Path:
    """Draw losses, learning rate and temperature over the steps, as ``progress.png`` in the run's folder."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    records = records_of(run)
    steps = [(r["step"], r["loss"], r["lr"], r["tau"]) for r in records if "loss" in r]
    checked = [(r["step"], r["validation_loss"]) for r in records if "validation_loss" in r]
    figure = Figure(figsize=(8, 6), layout="constrained")
    FigureCanvasAgg(figure)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    if steps:
        x, losses, rates, taus = (list(column) for column in zip(*steps, strict=True))
        upper.plot(x, losses, color="0.8", linewidth=0.8, label="loss of a batch")
        upper.plot(x, _smooth(losses), color="tab:blue", label="smoothed")
        lower.plot(x, rates, color="tab:green", label="learning rate")
        lower.legend(loc="upper left", frameon=False)
        right = lower.twinx()
        right.plot(x, taus, color="tab:purple", label="temperature")
        right.legend(loc="upper right", frameon=False)
    if checked:
        upper.plot(*zip(*checked, strict=True), "o-", color="tab:red", label="validation")
    upper.set_ylabel("loss")
    upper.legend(frameon=False)
    lower.set_xlabel("optimiser step")
    path = run / "progress.png"
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=100, format="png")
    return path


def _smooth(values: list[float]) -> list[float]:
    """Return the exponential mean, corrected for its bias at the start."""
    smooth, mean = [], 0.0
    for k, value in enumerate(values):
        mean = _SMOOTHED * mean + (1 - _SMOOTHED) * value
        smooth.append(mean / (1 - _SMOOTHED ** (k + 1)))
    return smooth


def model_card(config: TrainConfig, model: VisionLanguageModel, run: Path) -> str:
    """Return the model card of a trained model, in Markdown."""
    card, records = model.config.card or {}, records_of(run)
    losses = [r for r in records if "loss" in r]
    checked = [r for r in records if "validation_loss" in r]
    best = min(checked, key=lambda r: r["validation_loss"]) if checked else None
    parameters = sum(p.numel() for p in model.parameters())
    rows = [
        ("data", card.get("data", "")),
        ("licence", card.get("licence", "not stated; that of the data and of the encoders it began with holds")),
        ("parameters", f"{parameters:,}"),
        ("input", f"{config.model.image_size} x {config.model.image_size} pixels"),
        ("steps", f"{card.get('steps', 0):,}"),
        ("seed", config.seed),
    ]
    if losses:
        rows.append(("loss of the last batch", f"{losses[-1]['loss']:.4f}"))
        rows.append(("hours", f"{losses[-1]['seconds'] / 3600:.2f}"))
    if best:
        rows.append(("best validation loss", f"{best['validation_loss']:.4f} (epoch {best['epoch']})"))
    versions = f"radzero {radzero.__version__}, torch {torch.__version__}, transformers {transformers.__version__}"
    rows.append(("made with", versions))
    return _CARD.format(
        name=run.name,
        method=model.config.method,
        maps=" and a map" if model.has_maps else "",
        notice=card.get("notice", "Not a medical device. Nobody has measured this model on patients like yours yet."),
        table="\n".join(f"| {name} | {value} |" for name, value in rows if value != ""),
        recipe=config.to_yaml(),
    )
