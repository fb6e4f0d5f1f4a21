"""Sequence diagrams of a coordination, drawn from its log: one model, three ways to show it."""
