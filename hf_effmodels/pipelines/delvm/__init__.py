"""DeLVM: a causal transformer over image tokens told by (image, answer) pairs what to do (arXiv:2402.04841)."""
