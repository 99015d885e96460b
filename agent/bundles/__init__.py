"""Job two: model bundles, staged, proved, flipped, baked, rolled back."""
