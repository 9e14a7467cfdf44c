"""Models and mixtures put to the test."""
