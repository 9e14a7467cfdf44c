"""Answers: what a model's output says, and whether that is the gold."""
