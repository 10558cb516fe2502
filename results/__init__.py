"""What came out: the registry of variables, labelled cubes, statistics over replications.

Import the modules you need; this package imports none of them, so that the command line starts quickly:
`variables` (what each variable means), `cube` (build, write, read, extend), `provenance` (where a cube came from),
`statistics` (on plain arrays), `labelled` (the same over named dimensions), `selection` (which of several systems holds
its limits and is best), `frontier` (which are on that of several objectives), `summary` (tables), `compare` (two
cubes).
"""
