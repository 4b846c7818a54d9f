"""Native kernels for CPUs, compiled on first use, and what computes the same without them."""
