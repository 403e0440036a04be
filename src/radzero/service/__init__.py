"""Serve RadZero as a REST API with dynamic batching; the viewer uses this API."""
