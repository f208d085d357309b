"""Forward models: what an instrument measures of an image, one file per instrument."""
