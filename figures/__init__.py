"""What it means: one function per figure, cube in, Matplotlib figure out; `registry` draws and saves them by name."""
