"""What several test files need; `pythonpath` in pyproject.toml makes it importable."""
