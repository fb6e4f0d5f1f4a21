"""The event log and its side channels on NATS JetStream."""
