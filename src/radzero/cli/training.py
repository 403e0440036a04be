"""Define the verbs that train: ``train``, ``ablate``."""

from pathlib import Path
from typing import Annotated

import typer

from radzero.cli.console import (
    LocalOption,
    Precision,
    PrecisionOption,
    console,
    errors_in_words,
    interruptible,
    phase_bars,
    progress_bars,
    say,
)


def ablate(
    recipe: Annotated[Path, typer.Argument(help="YAML file; recipes/ablation-phantom.yaml has the published table.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder of the comparison; an interrupted one is resumed there.")
    ],
    workers: Annotated[int, typer.Option(min=1, help="Processes that draw films.")] = 2,
    jobs: Annotated[int, typer.Option(min=0, help="Rows that are trained at once; 0 means one per GPU, or one.")] = 0,
    precision: PrecisionOption = Precision.HIGHEST,
) -> None:
    """Train and evaluate methods on the same phantoms, encoder and budget, over several seeds; write their table."""
    import sys

    import torch
    from transformers.utils import logging as transformers_logging

    from radzero.ablation.recipe import load_ablation
    from radzero.ablation.run import run_ablation
    from radzero.ablation.table import draw_methods, write_table
    from radzero.evaluation.command import check_packages

    torch.set_float32_matmul_precision(precision.value)
    transformers_logging.disable_progress_bar()
    with errors_in_words():
        ablation = load_ablation(recipe)
        check_packages()
        with interruptible(), progress_bars() as progress:
            run_ablation(ablation, output, workers=workers, jobs=jobs, progress=phase_bars(progress))
        table = write_table(ablation, output, " ".join(["radzero", *sys.argv[1:]]))
        drawn = draw_methods(ablation, output)
    for path in (table, drawn):
        if path:
            say(path)


def train(
    recipe: Annotated[Path, typer.Argument(help="A YAML recipe, such as those in recipes/.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder of the run; an interrupted run is resumed there.")
    ],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Settings that replace the recipe's, such as loop.epochs=3.")
    ] = None,
    local_files_only: LocalOption = False,
    precision: PrecisionOption = Precision.HIGHEST,
    dry: Annotated[
        bool, typer.Option("--dry-run", help="Only report what the run takes: parameters, steps, memory.")
    ] = False,
    processes: Annotated[
        int, typer.Option(min=1, help="Number of processes of the run that a dry run reports on.")
    ] = 1,
) -> None:
    """Train a RadZero on a manifest or on phantoms; can be interrupted at any moment and continued by the same command.

    It runs on several processes too: torchrun --nproc-per-node 4 -m radzero.cli train ...
    """
    import torch
    from transformers.utils import logging as transformers_logging

    from radzero.training.config import load_config
    from radzero.training.dry_run import dry_run
    from radzero.training.trainer import Trainer

    torch.set_float32_matmul_precision(precision.value)
    transformers_logging.disable_progress_bar()  # transformers would show a bar for every checkpoint
    with errors_in_words():
        local = ["model.local_files_only=true"] if local_files_only else []
        config = load_config(recipe, [*(overrides or []), *local])
        if dry:
            console.print(dry_run(config, processes).tables())
            return
        with interruptible(), progress_bars() as progress:
            trainer = Trainer(config, output, on_progress=phase_bars(progress))
            task = progress.add_task("training", total=trainer.steps, completed=trainer.step)
            result = trainer.train(
                lambda record: progress.update(
                    task, completed=record["step"] + 1, description=f"loss {record['loss']:.3f}"
                )
            )
            trainer.close()
    if trainer.accelerator.is_main_process:
        why = "no better validation loss for a while" if result.stopped_early else "all steps done"
        say(f"{result.folder}: a checkpoint, after {result.steps} steps ({why})")
