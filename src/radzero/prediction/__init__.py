"""Asking radiographs sentences: one by one from Python, and many files into a folder."""
