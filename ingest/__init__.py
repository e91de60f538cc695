"""ingest: a venue's WebSocket frames in, `tokens.>` out."""
