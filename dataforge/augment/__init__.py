"""Augmentation: parameters are drawn first, for all images of a batch at once; then one executor applies them.

`lay_out` determines the records that make up each image and its boxes, `parameters` how each record is warped and
coloured: one matrix and one colour matrix each, as pure functions of (seed, epoch, record). The pixels are then
painted by `cpu`, image by image in the decode threads, or by `device`, a whole batch at once on the accelerator.
"""
