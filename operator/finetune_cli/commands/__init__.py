"""One module per command; each is a function that the command tree calls."""
