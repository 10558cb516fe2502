"""The papers reproduced: what they state beside what is simulated, line by line."""
