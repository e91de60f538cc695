"""schemas: what crosses the wire: events, subjects, money, the market's arithmetic; pure."""
