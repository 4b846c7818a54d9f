"""ViG and Pyramid ViG."""
