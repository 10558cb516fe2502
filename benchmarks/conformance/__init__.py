"""vLLM's own scheduler serves random cases on a virtual clock, and so does the simulator: at the same instants."""
