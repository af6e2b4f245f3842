"""Scripts that compare `theory` with networks trained by `linear_cnn`: `python -m
experiments --help`."""
