"""Checks for errors and oddities in a set. `README.md` in this folder lists the codes."""
