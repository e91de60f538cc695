"""One module a venue: what it sent -> events."""
