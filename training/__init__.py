"""The parts of a training run: options, sources, model, adapters, batches' features, losses, optimisers, checkpoints, logs."""
