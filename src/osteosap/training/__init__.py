"""Training recipes: skeleton pretraining, then fine-tuning for lesions."""
