"""The decisions of a scheduler, one small file each: pure functions of scalars, written once for every backend."""
