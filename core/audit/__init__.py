"""The auditor: recomputes everything a log claims, trusting nothing but the root public key."""
