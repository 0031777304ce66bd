"""The one training loop, on Accelerate."""
