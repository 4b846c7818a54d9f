"""Binary networks with one bit a weight, computed on bits."""
