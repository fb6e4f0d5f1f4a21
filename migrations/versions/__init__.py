"""One module per revision, named after number and content."""
