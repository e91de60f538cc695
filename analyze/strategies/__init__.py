"""One module a strategy: features -> score and reasons."""
