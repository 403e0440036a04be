"""What is raised of a checkpoint."""


class CheckpointError(ValueError):
    """A checkpoint cannot be loaded; the message names the folder, what is wrong and what to do."""
