"""BitNet b1.58 for small networks (https://arxiv.org/abs/2407.09527): weights of -1, 0 and 1."""
