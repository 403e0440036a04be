"""Train models: manifests, batches, losses, and the loop over one process or many."""
