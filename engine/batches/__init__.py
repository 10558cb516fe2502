"""Batches that run as a whole, preformed (static) or formed by free servers (dynamic): docs/model.md, sections 1-9."""
