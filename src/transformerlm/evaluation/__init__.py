"""Loss, perplexity and bits per byte, of token files and of documents, with standard errors."""
