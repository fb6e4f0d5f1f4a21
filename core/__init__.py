"""The kernel: signed events, identity, the log, machines, hosts, audit; no protocol by name."""
