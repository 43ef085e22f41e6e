"""The work of the production line, importable without Prefect."""
