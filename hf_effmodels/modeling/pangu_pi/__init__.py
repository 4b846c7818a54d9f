"""PanGu-π."""
