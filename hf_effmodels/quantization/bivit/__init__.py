"""Training of vision transformers with binary layers and binary attention (BiViT)."""
