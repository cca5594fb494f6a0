"""Executors, which apply drawn parameters to pixels: `cpu` image by image, `device` a whole batch."""
