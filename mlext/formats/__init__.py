"""What a stored manifest is as a model, whoever packed it."""
