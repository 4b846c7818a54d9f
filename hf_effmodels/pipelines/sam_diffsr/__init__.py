"""SAM-DiffSR: structure-modulated diffusion super-resolution (arXiv:2402.17133)."""
