"""The figures and tables of the paper: one room each, named as its command."""
