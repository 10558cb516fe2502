"""What all kernels share: how they are compiled and kept, a heap, the ranks of histograms."""
