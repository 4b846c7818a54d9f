"""One module a task; each offers `load(task, source, options, device) -> Predictor`."""
