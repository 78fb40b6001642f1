"""Wiring a network: how many edges, which edges, and the layers that carry them."""
