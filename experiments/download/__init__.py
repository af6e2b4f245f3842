"""Data sets and pretrained networks, from package registries and the sites of their
makers."""
