"""How functions become machine code, whole kernels and parts of them, and how that is kept on disk."""
