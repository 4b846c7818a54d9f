"""Post-training quantisation of adder layers ("Redistribution of weights and activations",
https://arxiv.org/abs/2212.10200)."""
