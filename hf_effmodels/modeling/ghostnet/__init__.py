"""GhostNet, GhostNetV2 and GhostNetV3."""
