"""The gateway: the OpenAI embeddings interface in front of Triton, with keys, limits, batching and canary routing."""
