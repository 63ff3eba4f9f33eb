"""Documents: read, segmented, tokenised, prepared, batched."""
