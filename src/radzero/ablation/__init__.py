"""Methods side by side: the same films, the same frozen encoder, the same budget, several seeds; one table."""
