"""Rewriting a published checkpoint into our format."""

from pathlib import Path

from radzero.models.checkpoints import load_processor, open_checkpoint
from radzero.models.processor import RadZeroProcessor
from radzero.models.radzero import RadZeroModel


def convert_checkpoint(source: str | Path, output: str | Path) -> Path:
    """Write the checkpoint ``source`` (published, or ours) to ``output`` in our format, processor included.

    The configuration remembers the published position rule, so that the outputs are the same to the last digit.

    Raises:
        CheckpointError: when the source cannot be read.
        ValueError: when ``output`` already holds a checkpoint.
    """
    output = Path(output)
    if (output / "config.json").exists():
        raise ValueError(f"{output}: holds a checkpoint already; name another folder")
    checkpoint = open_checkpoint(source)
    model = RadZeroModel.from_pretrained(checkpoint.folder)
    processor = load_processor(checkpoint.folder, checkpoint.config)
    output.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(output)
    save_processor(processor, output)
    return output


def save_processor(processor: RadZeroProcessor, output: Path) -> None:
    """Write the image processor and the tokenizer as the files every transformers version knows."""
    processor.image_processor.save_pretrained(output)
    processor.tokenizer.save_pretrained(output)
