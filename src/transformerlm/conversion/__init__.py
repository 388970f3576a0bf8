"""Export and import of models: Hugging Face folders and GGUF files."""
