"""Single images: header, decoding, hashing and drawing."""
