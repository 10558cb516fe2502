"""Micro-benchmarks of real engines: a grid of batches, each timed step by step, in random order, several times."""
