"""Commands that drive the model API over HTTP, for people and for pipelines."""
