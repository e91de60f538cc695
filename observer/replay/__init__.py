"""Recordings -> the live line's decisions and trades, without a broker, as a report."""
