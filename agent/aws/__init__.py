"""What the jobs share of AWS: signing."""
