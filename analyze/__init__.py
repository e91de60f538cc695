"""analyze: `tokens.>` in, `decisions.<strategy>.<mint>` and the newest scores out."""
