"""`hf-effmodels probe MODEL ...`: what the frozen features of a vision model are worth, in seconds."""
