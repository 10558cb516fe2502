"""Batches that run as a whole, preformed (static) or formed by free servers (dynamic): sections 1-9 of the model."""
