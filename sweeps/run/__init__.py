"""Running a sweep: plan, draws, scheduling, the store of finished parts, the cube, the search for capacities."""
