"""Running a sweep: preparing it, draws, scheduling, the store of finished parts, the cube, capacities."""
