"""Write the folder of a training run: its settings, metrics, states and checkpoints.

``config.yaml`` has the settings, ``metrics.jsonl`` a line per step and validation, ``state/last.pt`` the state from
which a run is resumed, ``state/best/`` the best checkpoint so far, and ``model/`` the run's result.
"""

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from radzero._files import replacing, replacing_folder, write_whole
from radzero.errors import RadZeroError
from radzero.models.base import VisionLanguageModel
from radzero.models.conversion import save_processor
from radzero.models.processor import RadZeroProcessor
from radzero.training.config import WITHOUT_INFLUENCE, TrainConfig, load_config
from radzero.training.progress import model_card


class TrainingError(RadZeroError, RuntimeError):
    """The run cannot go on; the message says what to do.

    The last saved state is whole unless the message says that it is damaged.
    """


class RunFolder:
    """Read and write the files of one run; only one process may write them.

    Args:
        path: path of the folder, which is made if needed.
        config: configuration of the run.
    """

    def __init__(self, path: Path, config: TrainConfig) -> None:
        self.path, self.config = path, config
        self.state, self.best, self.model = path / "state" / "last.pt", path / "state" / "best", path / "model"
        self.metrics = path / "metrics.jsonl"

    def take(self) -> None:
        """Start a run here, or resume one.

        Raises:
            ValueError: when the folder holds a run of another configuration.
        """
        path = self.path / "config.yaml"
        self.path.mkdir(parents=True, exist_ok=True)
        # a run that failed at once has left this file alone
        begun = any(entry.name != path.name for entry in self.path.iterdir())
        if begun and path.exists() and _with_influence(load_config(path)) != _with_influence(self.config):
            raise ValueError(f"{self.path}: holds a run of another configuration; give this one another folder")
        write_whole(path, self.config.to_yaml().encode())

    def log(self, record: dict[str, Any]) -> None:
        """Add a line to the metrics."""
        with self.metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def trim_metrics(self, steps: int) -> None:
        """Drop the lines of steps that will be taken again, and a torn line."""
        if self.metrics.exists():
            whole = self.metrics.read_text(encoding="utf-8").splitlines(keepends=True)
            lines = [line for line in whole if line.endswith("\n")]
            write_whole(self.metrics, "".join(line for line in lines if json.loads(line)["step"] < steps).encode())

    def damaged(self, error: Exception) -> TrainingError:
        """Return the error for a state that cannot be read or lacks an entry."""
        return TrainingError(
            f"{self.state}: is damaged ({type(error).__name__}: {error}). Remove it to begin again, or start another "
            f"run from {self.best} (model.start)"
        )

    def save_state(self, state: dict[str, Any]) -> None:
        """Replace the state.

        Raises:
            TrainingError: when it cannot be written; the earlier state stays whole.
        """
        try:
            self.state.parent.mkdir(parents=True, exist_ok=True)
            with replacing(self.state) as temporary:
                torch.save(state, temporary)
        except (OSError, RuntimeError) as error:
            raise TrainingError(
                f"{self.state}: cannot be saved ({error}). Make room and run the same command again; the state of an "
                "earlier step is whole"
            ) from error

    def save_best(
        self, model: VisionLanguageModel, processor: RadZeroProcessor, weights: dict[str, Any] | None
    ) -> None:
        """Replace the best checkpoint, which ``radzero.load`` reads.

        Args:
            model: model to save, with its card.
            processor: processor of the model.
            weights: the model's tensors where it does not hold all of them itself, else None.

        Raises:
            TrainingError: when it cannot be written; the earlier checkpoint stays whole.
        """
        try:
            with replacing_folder(self.best) as temporary:
                model.save_pretrained(temporary, state_dict=weights)
                save_processor(processor, temporary)
                (temporary / "recipe.yaml").write_text(self.config.to_yaml(), encoding="utf-8")
                (temporary / "README.md").write_text(model_card(self.config, model, self.path), encoding="utf-8")
        except OSError as error:
            raise TrainingError(
                f"{self.best}: cannot be saved ({error}). Make room and run the command again"
            ) from error

    def finish(self) -> None:
        """Make the best checkpoint the run's result."""
        with replacing_folder(self.model) as temporary:
            shutil.copytree(self.best, temporary, dirs_exist_ok=True)


def _with_influence(config: TrainConfig) -> str:
    """Return the settings that change a run's numbers, as JSON."""
    content = asdict(config)
    for key in WITHOUT_INFLUENCE:
        section, name = key.split(".")
        del content[section][name]
    return json.dumps(content, sort_keys=True)
