"""The kernel: signed events, identity, the log contract, machines, hosts, audit. Knows no protocol by name."""
