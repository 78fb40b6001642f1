"""A network as one C99 file that needs nothing but the standard headers."""
