"""Logging, metrics and redaction: what all three jobs stand on."""
