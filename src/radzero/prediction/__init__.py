"""Ask radiographs sentences, one by one from Python or many files into a folder."""
