"""Augmentation: parameters first, for all images of a batch at once; then one executor applies them.

`lay_out` says which records make up each picture and where its boxes are, `parameters` how each record is moved and
coloured: one matrix and one colour matrix each, as pure functions of (seed, epoch, record). The pixels are then
painted by `cpu`, image by image inside the decode threads, or by `device`, a whole batch at once on the accelerator.
"""
