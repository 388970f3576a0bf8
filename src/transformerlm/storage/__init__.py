"""Files: atomic writes, locks, checksummed JSON, safetensors."""
