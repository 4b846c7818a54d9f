"""What there is to choose from, by name: imports nothing heavy, so that commands can say it at once."""

#: What says how many bits a code takes: a distribution for each channel (as published by Entropic Student), or one for
#: each number, told by a side code (SC2 Benchmark's two hyperpriors).
PRIORS = ("factorized", "scale_hyperprior", "mean_scale_hyperprior")


def check_prior(prior: str) -> None:
    """ValueError unless it is one of `PRIORS`."""
    if prior not in PRIORS:
        raise ValueError(f"prior: got {prior!r}, accepted are {', '.join(PRIORS)}.")
