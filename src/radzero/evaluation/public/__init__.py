"""Define each public benchmark in a module: source and layout of its files, prompts and labels."""
