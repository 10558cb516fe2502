"""What `benchmarks/inside_vllm.py` is made of."""
