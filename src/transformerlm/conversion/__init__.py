"""Models out and in: Hugging Face folders and GGUF files."""
