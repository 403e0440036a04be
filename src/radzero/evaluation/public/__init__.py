"""The public benchmarks, a file each: where the files come from, how they are laid out, prompts and labels."""
