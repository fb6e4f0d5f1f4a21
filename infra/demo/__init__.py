"""The demonstration: five models vote on biopsies while their processes are killed."""
