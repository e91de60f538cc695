"""Grafana's dashboards, made by code: `./dev docs` writes them as JSON. No service imports this."""
