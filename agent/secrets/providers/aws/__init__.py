"""AWS Secrets Manager as a provider."""
