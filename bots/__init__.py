"""bots: `signals.<user>` in, the ledger `fills.<user>` out."""
