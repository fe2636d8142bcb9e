"""Batches of inputs through a chain: each input goes from step to step as soon as it can."""
