"""From real radiographs with labels to a model and its figures, without a phantom: does the whole chain work?

    python benchmarks/real_images.py path/to/nih_chestxray14 runs/nih

The folder has NIH ChestX-ray14 images and a ``Data_Entry_2017*.csv``. Labels become finding-sentences
(``radzero prepare table``), a model of random weights is trained on them (``radzero train recipes/debug.yaml``, larger
images), its checkpoint is loaded and asked for every label on every film. A few dozen films teach a model from scratch
their own labels and nothing else; the figures say so.
"""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

from sklearn.metrics import roc_auc_score

import radzero

ROOT = Path(__file__).resolve().parents[1]


def command(*arguments: object) -> None:
    subprocess.run([sys.executable, "-m", "radzero.cli", *map(str, arguments)], check=True)


def main() -> None:
    images, run = Path(sys.argv[1]), Path(sys.argv[2])
    run.mkdir(parents=True, exist_ok=True)
    manifest = run / "manifest.jsonl"
    (table,) = images.glob("Data_Entry_2017*.csv")
    columns = ("--image", "Image Index", "--labels", "Finding Labels", "--patient", "Patient ID")
    command("prepare", "table", images, table, *columns, "--shares", 0.15, 0.2, "-o", manifest)
    settings = ("model.image_size=128", "loop.epochs=40", "loop.images_per_rank=10", "loop.patience=0")
    command("train", ROOT / "recipes/debug.yaml", f"data.manifest={manifest}", *settings, "-o", run / "training")

    metrics = [json.loads(line) for line in (run / "training/metrics.jsonl").read_text().splitlines()]
    losses = [record["loss"] for record in metrics if "loss" in record]
    checked = [record["validation_loss"] for record in metrics if "validation_loss" in record]
    print(f"training loss: {sum(losses[:5]) / 5:.3f} in the first five steps, {sum(losses[-5:]) / 5:.3f} in the last")
    print(f"validation loss: {checked[0]:.3f} after an epoch, {min(checked):.3f} at best, {checked[-1]:.3f} at the end")

    rows = [json.loads(line) for line in manifest.read_text().splitlines()]
    sentences = sorted({s for row in rows for s in row["sentences"] if s.startswith("There is ") and " no " not in s})
    often = Counter(s for row in rows if row["split"] == "train" for s in row["sentences"])
    model = radzero.load(run / "training/model")
    for split in ("train", "validate", "test"):
        own = [row for row in rows if row["split"] == split]
        readings = model.predict([row["image"] for row in own], sentences)
        truth = [sentence in row["sentences"] for row in own for sentence in sentences]
        scores = [float(logit) for reading in readings for logit in reading.logits]
        frequency = [often[sentence] for _ in own for sentence in sentences]
        print(
            f"{split}: {len(own)} films, AUC over film-label pairs {roc_auc_score(truth, scores):.3f}, "
            f"of the labels' frequency alone {roc_auc_score(truth, frequency):.3f}"
        )


if __name__ == "__main__":
    main()
