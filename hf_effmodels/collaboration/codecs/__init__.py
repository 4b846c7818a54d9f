"""What makes the features that are sent between two machines small."""
