"""jules-agent: secrets, model bundles and alerts beside one trading pod."""

__version__ = "0.1.0"
