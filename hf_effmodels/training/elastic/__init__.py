"""Training many nested networks in one: which are drawn, what each learns from, and by how much."""
