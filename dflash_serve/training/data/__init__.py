"""Training data: rows of prompts in, exact token sequences with loss spans out."""
