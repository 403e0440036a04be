"""Compare methods in one table: on the same images, with the same frozen encoder and budget, over several seeds."""
