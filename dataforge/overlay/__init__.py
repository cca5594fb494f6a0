"""Edits of annotations, kept apart from the images in a journal. `README.md` in this folder specifies the files."""
