"""What is wrong with a setting, as every room can say it without knowing the others' settings."""

from __future__ import annotations


class SettingsError(Exception):
    """A setting is wrong; the message is one line for the person who set it, and holds no secret."""
