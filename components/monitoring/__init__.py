"""How production is watched, as `params.yaml` says it; the watching itself is in `monitoring/`."""
