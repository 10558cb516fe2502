"""The policies of a sweep in a server that is no simulation: what it is told, what it decides, and what it logs."""
