"""The seeded simulator: real hosts, virtual time, one process, faults and adversaries on demand."""
