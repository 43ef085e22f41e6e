"""What `embedline serve` runs: Triton and what stands beside it, owned, probed by real questions, and healed."""
