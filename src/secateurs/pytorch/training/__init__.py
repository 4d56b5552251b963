"""Train PyTorch models through Hugging Face Accelerate."""
