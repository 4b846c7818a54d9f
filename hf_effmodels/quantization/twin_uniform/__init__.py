"""TinySAM's post-training quantisation: two ranges behind a GELU and a softmax (arXiv:2312.13789, 2111.12293)."""
