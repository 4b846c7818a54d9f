"""The architectures, a folder each, and the layers that several of them share."""
