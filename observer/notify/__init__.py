"""Findings and Alertmanager's webhook -> the outbox -> chats; nothing lost, nothing told twice."""
