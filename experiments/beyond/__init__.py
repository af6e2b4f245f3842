"""Experiments that go on where the paper ends, each in a room of its own."""
