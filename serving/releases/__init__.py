"""Releases: a version takes over without a failed request, is tried on a share of the users, or goes back.

`places` are the servers that hold versions, `move` brings them from some routes to others, all or none; `judge` says
when a canary has to go, `canary` and `shadow` what was seen of a version on trial.
"""
