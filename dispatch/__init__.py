"""dispatch: `decisions.>` in, one `signals.<user>` for each user whose bot wants it out."""
