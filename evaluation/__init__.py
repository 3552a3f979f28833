"""How good a trained system is: scores on held-out questions, their significance, the report."""
