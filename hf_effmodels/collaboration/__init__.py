"""One model on several machines: what is sent between them, and who computes what."""
