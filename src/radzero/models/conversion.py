"""Convert checkpoints: published ones to our format, and a RadZero of ours to the published format."""

from pathlib import Path
from typing import cast

from radzero.models.carzero.checkpoint import CLINICAL_BERT, convert_lightning
from radzero.models.checkpoints import load_processor, open_checkpoint
from radzero.models.loading import load_model
from radzero.models.processor import RadZeroProcessor
from radzero.models.published.writing import save_published
from radzero.models.radzero import RadZeroModel


def convert_checkpoint(
    source: str | Path,
    output: str | Path,
    text: str | Path | None = None,
    *,
    published: bool = False,
    revision: str | None = None,
    local_files_only: bool = False,
) -> Path:
    """Write the checkpoint ``source`` (published, or ours) to ``output`` in our format, with its processor.

    The configuration keeps the published position rule, so that the outputs are the same to the last digit.

    Args:
        source: a folder or hub id; or a PyTorch Lightning file, as CARZero's checkpoints are.
        output: a folder without a checkpoint.
        text: folder or hub id of the tokenizer for a Lightning file, which has none; ClinicalBERT's when None.
        published: write the published format instead, which can hold only a RadZero on a DINOv2.
        revision, local_files_only: for a hub id; see :func:`~radzero.models.checkpoints.open_checkpoint`.

    Raises:
        CheckpointError: when the source cannot be read.
        ValueError: when ``output`` already holds a checkpoint, when ``text`` is given for a source that has its own
            tokenizer, or when the published format cannot hold the model.
    """
    if Path(source).is_file():
        if published:
            raise ValueError(f"{source}: is a CARZero, and the published format is RadZero's")
        return convert_lightning(source, output, CLINICAL_BERT if text is None else text)
    if text is not None:
        raise ValueError(f"{source}: has its own tokenizer; another one (--text) is for files of PyTorch Lightning")
    output = Path(output)
    if (output / "config.json").exists():
        raise ValueError(f"{output}: holds a checkpoint already; name another folder")
    checkpoint = open_checkpoint(source, revision=revision, local_files_only=local_files_only)
    model = load_model(checkpoint)
    processor = load_processor(checkpoint.folder, checkpoint.config)
    if published:
        save_published(cast(RadZeroModel, model), output)
    else:
        output.mkdir(parents=True, exist_ok=True)
        model.save_pretrained(output)
    save_processor(processor, output)
    return output


def save_processor(processor: RadZeroProcessor, output: Path) -> None:
    """Write the image processor and the tokenizer as the files that every transformers version reads."""
    processor.image_processor.save_pretrained(output)
    processor.tokenizer.save_pretrained(output)
