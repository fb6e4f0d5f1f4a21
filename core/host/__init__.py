"""Hosts: the impure part that signs, appends, keeps timers and calls the agents' own code."""
