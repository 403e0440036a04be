"""RadZero as a service: a REST API with dynamic batching, and the viewer that stands on it."""
