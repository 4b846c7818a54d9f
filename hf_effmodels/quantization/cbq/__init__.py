"""CBQ: cross-block quantisation of language models (https://arxiv.org/abs/2312.07950)."""
