"""ParameterNet."""
