"""Cron expressions -> jobs that are never run twice and whose misses are told."""
