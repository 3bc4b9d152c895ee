"""What the method leaves to Triton on a GPU; each has its equal on the CPU beside the method."""
