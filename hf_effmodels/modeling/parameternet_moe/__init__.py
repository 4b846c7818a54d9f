"""ParameterNet for language: LLaMA with a mixture of down projections."""
