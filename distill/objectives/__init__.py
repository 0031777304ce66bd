"""Training objectives: pure loss functions, and the module that wraps a student with them."""
