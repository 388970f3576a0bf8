"""Files: atomic writes, locks, checksummed JSON records, safetensors."""
