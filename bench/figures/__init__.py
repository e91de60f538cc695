"""One module a figure; each has `options(parser)` and `run(options, out)`."""
