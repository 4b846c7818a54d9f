"""One module per group of families: how a case of theirs is run through the package."""
