"""What several language models share: LLaMA's blocks and configuration, and the way from and to its checkpoints."""
