"""observer: everything in, facts and verdicts out."""
