"""One picture: its header, its pixels, its hash, and how it is drawn."""
