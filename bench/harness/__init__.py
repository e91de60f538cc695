"""What the figures share: processes, the feed, the line, what was filled and when, what it cost, tables."""
