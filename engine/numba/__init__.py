"""What all kernels share: a heap, sums and moments, the ranks of histograms, the state of policies."""
