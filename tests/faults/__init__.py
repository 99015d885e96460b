"""Clocks, file systems and networks that misbehave on command, shared by every test."""
