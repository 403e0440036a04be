"""The methods' models: their configurations and networks, and how their checkpoints are read and written."""
