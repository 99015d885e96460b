"""Job one: secrets into a tmpfs, all of them in one atomic step."""
