"""Training PyTorch models, through Hugging Face Accelerate."""
