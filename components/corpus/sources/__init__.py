"""Where rows come from: each module writes its rows with `build`, and tells with `inputs` what it reads them from."""
