"""The experiments of docs/MODELS.md, one command each: `python -m gma_torch.experiments.NAME`."""
